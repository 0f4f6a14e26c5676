"""HTTP requests to addresses that customers name: webhook deliveries and inputs to download.

Knows HTTP. Knows nothing of jobs, webhooks or storage. A name is resolved once, every address it stands for is checked,
and the connection goes to a checked address with the certificate verified for the name. Every request has a deadline
that a slow sender cannot stretch.
"""

import http.client
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import urljoin

import certifi

from worker.addresses import AddressPolicy, NameNotResolved, Target, UnsafeUrl, parse_target, resolve
from worker.timed_socket import CHUNK_BYTES, TimedSocket, open_socket, remaining

__all__ = ["AddressPolicy", "Client", "OutboundError", "RefusedByServer", "Response", "TooLarge", "UnsafeUrl"]

MAX_REDIRECTS = 5
CONNECT_TIMEOUT_S = 10.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_USER_AGENT = "realvideo-batch"


class OutboundError(Exception):
    """The request came to no answer: no such name, no connection, a bad certificate, too slow, a broken reply."""

    retryable: ClassVar[bool] = True


class TooLarge(OutboundError):
    """The download is larger than allowed."""

    retryable = False


class RefusedByServer(OutboundError):
    """The server answered a download with something else than the file."""

    def __init__(self, status: int, host: str) -> None:
        super().__init__(f"{host} answered with status {status}.")
        self.status = status
        self.retryable = status in _RETRYABLE_STATUSES  # type: ignore[misc]


@dataclass(frozen=True)
class Response:
    """The head of an answer. Header names are lower case; a repeated header keeps its last value."""

    status: int
    headers: Mapping[str, str]


class Client:
    """Makes requests under one address policy. Safe to share between threads: it keeps no connection."""

    def __init__(self, policy: AddressPolicy, *, tls: ssl.SSLContext | None = None) -> None:
        """`tls`: for a private certificate authority; it must verify certificates and names."""
        self._policy = policy
        self._tls = tls or _default_tls()
        if self._tls.verify_mode is not ssl.CERT_REQUIRED or not self._tls.check_hostname:
            raise ValueError("the TLS context must verify certificates and host names")

    def post(self, url: str, *, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Response:
        """One POST; a redirect is returned, never followed. The answer's body is not read.

        Raises UnsafeUrl, or OutboundError after at most `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        with self._request("POST", url, headers=headers, body=body, deadline=deadline) as (_, answer):
            return _response(answer)

    def download(self, url: str, path: Path, *, max_bytes: int, timeout_s: float) -> int:
        """Write what the URL holds to `path` and return its size in bytes. Up to five redirects are followed, each
        checked like the first address. When this raises, no file is left at `path`.

        Raises UnsafeUrl, TooLarge, RefusedByServer, OutboundError; OSError when the disk fails.
        """
        deadline = time.monotonic() + timeout_s
        for _ in range(MAX_REDIRECTS + 1):
            with self._request("GET", url, headers={"Accept": "*/*"}, body=None, deadline=deadline) as (target, answer):
                if answer.status in _REDIRECTS:
                    url = urljoin(url, answer.headers.get("Location") or "")
                    continue
                if answer.status != http.client.OK:
                    raise RefusedByServer(answer.status, target.host)
                return _save(answer, path, max_bytes=max_bytes)
        raise OutboundError(f"The URL redirects more than {MAX_REDIRECTS} times.")

    @contextmanager
    def _request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, deadline: float
    ) -> Iterator[tuple[Target, http.client.HTTPResponse]]:
        target = parse_target(url, policy=self._policy)
        with _network_errors(target.host):
            addresses = resolve(target, policy=self._policy, timeout_s=remaining(deadline, CONNECT_TIMEOUT_S))
            sock = self._connect(target, addresses, deadline=deadline)
        try:
            with _network_errors(target.host):
                connection = http.client.HTTPConnection(target.host, target.port)
                connection.sock = TimedSocket(sock, deadline)
                connection.request(
                    method,
                    target.path,
                    body=body,
                    headers={
                        **headers,
                        "Host": target.host_header,
                        "User-Agent": _USER_AGENT,
                        "Accept-Encoding": "identity",
                        "Connection": "close",
                    },
                )
                answer = connection.getresponse()
            yield target, answer
        finally:
            sock.close()

    def _connect(self, target: Target, addresses: list[str], *, deadline: float) -> socket.socket:
        """A connection to the first address that accepts one."""
        failure: OSError = OSError("no address")
        for address in addresses:
            try:
                sock = open_socket(address, target.port, timeout_s=remaining(deadline, CONNECT_TIMEOUT_S))
            except OSError as error:
                failure = error
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if target.scheme == "http":
                return sock
            try:
                sock.settimeout(remaining(deadline, CONNECT_TIMEOUT_S))
                return self._tls.wrap_socket(sock, server_hostname=target.host)
            except OSError:
                sock.close()
                raise
        raise failure


def _save(answer: http.client.HTTPResponse, path: Path, *, max_bytes: int) -> int:
    announced = answer.length
    if announced is not None and announced > max_bytes:
        raise TooLarge(f"The file has {announced} bytes; at most {max_bytes} are allowed.")
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise OutboundError("The server compressed the file although it was asked not to.")
    received = 0
    complete = False
    try:
        with path.open("xb") as file:
            while chunk := _read(answer):
                received += len(chunk)
                if received > max_bytes:
                    raise TooLarge(f"The file has more than the {max_bytes} bytes that are allowed.")
                file.write(chunk)
        if announced is not None and received != announced:
            raise OutboundError(f"The connection ended after {received} of {announced} bytes.")
        complete = True
    finally:
        if not complete:
            path.unlink(missing_ok=True)
    return received


def _read(answer: http.client.HTTPResponse) -> bytes:
    with _network_errors("The server"):
        return answer.read1(CHUNK_BYTES) if answer.length is None else answer.read(min(CHUNK_BYTES, answer.length))


@contextmanager
def _network_errors(host: str) -> Iterator[None]:
    """Says in one line what went wrong on the wire, without the server's own words."""
    try:
        yield
    except NameNotResolved as error:
        raise OutboundError(str(error)) from error
    except ssl.SSLCertVerificationError as error:
        raise OutboundError(f"{host} has a certificate that cannot be trusted: {error.verify_message}.") from error
    except TimeoutError as error:
        raise OutboundError(f"{host} did not answer in time.") from error
    except http.client.HTTPException as error:
        raise OutboundError(f"{host} sent an answer that is not HTTP, or broke it off.") from error
    except OSError as error:
        raise OutboundError(f"No connection with {host}: {error.strerror or type(error).__name__}.") from error


def _response(answer: http.client.HTTPResponse) -> Response:
    return Response(status=answer.status, headers={name.lower(): value for name, value in answer.getheaders()})


def _default_tls() -> ssl.SSLContext:
    """The system's certificate authorities, and certifi's for slim images that have none."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
