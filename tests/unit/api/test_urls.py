"""The form of URLs that clients may name."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.urls import complaint_about


def complaint(url: str) -> str | None:
    return complaint_about(url, schemes=("https",), allow_private=False)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a?b=c", "https://example.com", "https://EXAMPLE.com:8443/", "https://bücher.example/ä",
        "https://93.184.216.34/", "https://[2606:2800:220:1:248:1893:25c8:1946]/", "https://xn--bcher-kva.example/",
        "https://localhost.example.com/",
    ],
)  # fmt: skip
def test_an_ordinary_url_is_fine(url: str) -> None:
    assert complaint(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/", "ftp://example.com/", "//example.com/", "example.com", "", "https://", "https:///path",
        "https://a b.example/", "https://example.com/\n", "https://example.com/\x00", "https://exa\\mple.com/",
        "https://[::1/", "https://example.com:port/", "https://example.com:0/", "https://u:p@example.com/",
        "https://example.com/#x", f"https://example.com/{'x' * 2048}", f"https://{'a' * 70}.com/",
        "https://LOCALHOST/", "https://localhost./", "https://a.localhost/", "https://127.0.0.1./",
    ],
)  # fmt: skip
def test_a_strange_url_is_refused_with_a_reason(url: str) -> None:
    assert complaint(url)


@given(st.ip_addresses(v=4))
def test_an_address_is_judged_alike_in_every_spelling(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    spellings = (str(address), str(number), hex(number), f"0{number:o}", f"[::ffff:{address}]")
    found = {complaint(f"https://{spelling}/") is None for spelling in spellings}

    assert len(found) == 1
    if not address.is_global:
        assert found == {False}


def test_where_private_addresses_are_allowed_only_the_form_counts() -> None:
    def allowed(url: str) -> str | None:
        return complaint_about(url, schemes=("https", "http"), allow_private=True)

    assert allowed("http://127.0.0.1:1/") is None
    assert allowed("http://receiver/") is None
    assert allowed("http://user@receiver/")
