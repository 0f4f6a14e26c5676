"""Signed, expiring URLs for a local storage directory. Knows HMAC and URLs; knows no file and no request.

Everything that decides what the URL does is signed: the method, the key, when it expires, the type, the size.
"""

import datetime as dt
import hashlib
import hmac
from dataclasses import dataclass
from urllib.parse import quote, urlencode

PATH = "/storage/"


class InvalidSignatureError(ValueError):
    """The URL was not made here, or was changed."""


class ExpiredError(ValueError):
    """The URL was made here, and its time is over."""


@dataclass(frozen=True)
class Grant:
    """What a checked URL allows, for its method and key."""

    content_type: str
    disposition: str | None
    size_bytes: int | None


class SignedUrls:
    """Makes and checks the URLs.

    Args:
        secret: the same in every process that serves the directory.
        base_url: scheme and host as clients reach this API.
    """

    def __init__(self, secret: bytes, *, base_url: str) -> None:
        if len(secret) < 16:
            raise ValueError("the storage secret must have at least 16 bytes")
        self._secret = secret
        self._base = base_url.rstrip("/")

    def put_url(self, key: str, *, content_type: str, size_bytes: int | None, expires_at: dt.datetime) -> str:
        size = {} if size_bytes is None else {"size": str(size_bytes)}
        return self._url("PUT", key, {"expires": _seconds(expires_at), "type": content_type, **size})

    def get_url(self, key: str, *, disposition: str, content_type: str, expires_at: dt.datetime) -> str:
        return self._url(
            "GET", key, {"disposition": disposition, "expires": _seconds(expires_at), "type": content_type}
        )

    def check(self, method: str, key: str, query: list[tuple[str, str]], *, now: dt.datetime) -> Grant:
        """What the URL allows. Raises InvalidSignatureError or ExpiredError."""
        parameters = dict(query)
        signature = parameters.pop("signature", "")
        if len(query) != len(parameters) + 1 or not hmac.compare_digest(
            signature.encode(), self._signature(method, key, parameters).encode()
        ):
            raise InvalidSignatureError
        if now.timestamp() >= int(parameters["expires"]):
            raise ExpiredError
        return Grant(
            content_type=parameters["type"],
            disposition=parameters.get("disposition"),
            size_bytes=int(parameters["size"]) if "size" in parameters else None,
        )

    def _url(self, method: str, key: str, parameters: dict[str, str]) -> str:
        query = urlencode({**parameters, "signature": self._signature(method, key, parameters)})
        return f"{self._base}{PATH}{quote(key)}?{query}"

    def _signature(self, method: str, key: str, parameters: dict[str, str]) -> str:
        text = "\n".join([method, quote(key), urlencode(sorted(parameters.items()))])
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()


def _seconds(moment: dt.datetime) -> str:
    return str(int(moment.timestamp()))
