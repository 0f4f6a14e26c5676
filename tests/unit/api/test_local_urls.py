"""Signed URLs of a local storage directory."""

import datetime as dt
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.local_urls import ExpiredError, InvalidSignatureError, SignedUrls

NOW = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(minutes=1)
URLS = SignedUrls(b"0123456789abcdef", base_url="https://videos.example/")
KEY = "tenants/t/jobs/j/1/video.mp4"


def query_of(url: str) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(url).query, keep_blank_values=True)


@given(text=st.text(max_size=30))
def test_what_was_signed_comes_back(text: str) -> None:
    url = URLS.get_url(KEY, disposition=text, content_type="video/mp4", expires_at=LATER)

    grant = URLS.check("GET", KEY, query_of(url), now=NOW)

    assert url.startswith(f"https://videos.example/storage/{KEY}?")
    assert (grant.disposition, grant.content_type, grant.size_bytes) == (text, "video/mp4", None)


def test_a_url_works_until_it_expires() -> None:
    query = query_of(URLS.put_url(KEY, content_type="a/b", size_bytes=7, expires_at=LATER))

    assert URLS.check("PUT", KEY, query, now=LATER - dt.timedelta(seconds=1)).size_bytes == 7
    with pytest.raises(ExpiredError):
        URLS.check("PUT", KEY, query, now=LATER)


def test_any_change_breaks_the_signature() -> None:
    query = query_of(URLS.put_url(KEY, content_type="a/b", size_bytes=7, expires_at=LATER))
    changed = [query[:-1], [*query, ("size", "7")], [*query, ("x", "y")], [], query[1:]]
    changed += [[*query[:place], (name, value + "0"), *query[place + 1 :]] for place, (name, value) in enumerate(query)]
    for one in changed:
        with pytest.raises(InvalidSignatureError):
            URLS.check("PUT", KEY, one, now=NOW)
    for method, key in (("GET", KEY), ("PUT", KEY + "x"), ("PUT", KEY.replace("/", "%2F"))):
        with pytest.raises(InvalidSignatureError):
            URLS.check(method, key, query, now=NOW)
    with pytest.raises(InvalidSignatureError):
        SignedUrls(b"another secret, 16+", base_url="https://x").check("PUT", KEY, query, now=NOW)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        SignedUrls(b"short", base_url="https://x")
