"""Which URLs and addresses may be reached."""

import socket

import pytest

from worker.addresses import AddressPolicy, NameNotResolved, UnsafeUrl, is_public, parse_target, resolve

PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e", "::ffff:8.8.8.8"]
NOT_PUBLIC = [
    "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.5.5", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "100.127.255.255", "192.0.0.9", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.7", "203.0.113.9",
    "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1", "100::1", "2001::1", "2001:0:4136:e378::1", "2001:db8::1", "2002:7f00:1::", "2002:a00:1::1",
    "3fff::1", "fc00::1", "fd12:3456::1", "fe80::1", "fe80::1%lo", "fec0::1", "ff02::1", "ff0e::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_an_ordinary_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_a_private_special_or_embedding_address_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.wav", "ftp://example.com/", "file:///etc/passwd", "example.com/a.wav", "https://",
        "https:///a", "https://user:secret@example.com/", "https://user@example.com/", "https://example.com:0/",
        "https://example.com:99999/", "https://exa mple.com/", "https://example.com/\r\nX-Evil: 1",
        "https://example.com/a\tb", "https://[::1/", "https://" + "a" * 70 + ".com/", "gopher://example.com/", "",
    ],
)  # fmt: skip
def test_anything_but_a_plain_https_url_is_refused(url: str) -> None:
    with pytest.raises(UnsafeUrl):
        parse_target(url, policy=AddressPolicy.PUBLIC)


def test_a_url_is_taken_apart_with_its_query_and_port() -> None:
    target = parse_target("https://Exämple.com:8443/ä/b.wav?sig=a%2Fb&x=1#part", policy=AddressPolicy.PUBLIC)
    assert (target.scheme, target.host, target.port) == ("https", "xn--exmple-cua.com", 8443)
    assert target.path == "/%C3%A4/b.wav?sig=a%2Fb&x=1"
    assert target.host_header == "xn--exmple-cua.com:8443"


def test_the_host_header_leaves_out_the_usual_port_and_brackets_an_ipv6_address() -> None:
    assert parse_target("https://example.com", policy=AddressPolicy.PUBLIC).host_header == "example.com"
    assert parse_target("http://[2606:4700::1]:81/", policy=AddressPolicy.ANY).host_header == "[2606:4700::1]:81"


@pytest.mark.parametrize("host", ["localhost", "127.1", "0x7f000001", "2130706433", "[::1]", "[::ffff:127.0.0.1]"])
def test_every_spelling_of_loopback_is_refused_after_resolving(host: str) -> None:
    target = parse_target(f"https://{host}/", policy=AddressPolicy.PUBLIC)
    with pytest.raises((UnsafeUrl, NameNotResolved)):
        resolve(target, policy=AddressPolicy.PUBLIC, timeout_s=5)


def test_one_private_address_among_public_ones_condemns_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 443)) for ip in ("93.184.216.34", "10.0.0.7")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: answers)
    target = parse_target("https://mixed.example/", policy=AddressPolicy.PUBLIC)
    with pytest.raises(UnsafeUrl):
        resolve(target, policy=AddressPolicy.PUBLIC, timeout_s=5)
    assert resolve(target, policy=AddressPolicy.ANY, timeout_s=5) == ["93.184.216.34", "10.0.0.7"]


def test_a_name_server_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: release.wait(20) and [])
    target = parse_target("https://slow.example/", policy=AddressPolicy.PUBLIC)
    try:
        with pytest.raises(NameNotResolved):
            resolve(target, policy=AddressPolicy.PUBLIC, timeout_s=0.05)
    finally:
        release.set()
