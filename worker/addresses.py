"""Which URLs and network addresses this installation may talk to on behalf of a customer.

Knows URLs, names and IP addresses. Knows nothing of HTTP requests, jobs or webhooks.
"""

import ipaddress
import queue
import re
import socket
import threading
from dataclasses import dataclass
from enum import Enum
from urllib.parse import quote, urlsplit

# `is_global` lets these pass: multicast, relays, and addresses that carry another IPv4 address inside
_REFUSED_V4 = tuple(
    ipaddress.IPv4Network(network) for network in ("100.64.0.0/10", "192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/3")
)
_GLOBAL_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_V6 = tuple(
    ipaddress.IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
_CONTROL_OR_SPACE = re.compile(r"[\x00-\x20\x7f]")
_DEFAULT_PORTS = {"https": 443, "http": 80}


class AddressPolicy(Enum):
    PUBLIC = "public"  # https to addresses of the public internet
    ANY = "any"  # http and private addresses too: for development and tests


class UnsafeUrl(Exception):
    """The URL, or an address its name stands for, is not one this installation may reach. Trying again cannot help."""

    retryable = False


class NameNotResolved(Exception):
    """The name server did not answer, or knows no such name. Trying again may help."""


@dataclass(frozen=True)
class Target:
    """A URL taken apart. `host` is ASCII, without brackets; `path` has the query and starts with a slash."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse_target(url: str, *, policy: AddressPolicy) -> Target:
    """Raises UnsafeUrl for anything but a plain https URL (http too where the policy allows it)."""
    if _CONTROL_OR_SPACE.search(url):
        raise UnsafeUrl("The URL contains a space or a control character.")
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode("ascii")
    except (ValueError, UnicodeError) as error:
        raise UnsafeUrl("The URL cannot be read.") from error
    schemes = ("https",) if policy is AddressPolicy.PUBLIC else ("https", "http")
    if parts.scheme not in schemes:
        raise UnsafeUrl(f"The URL must start with {' or '.join(f'{scheme}://' for scheme in schemes)}.")
    if not host or port == 0:
        raise UnsafeUrl("The URL has no usable host.")
    if parts.username is not None or parts.password is not None:
        raise UnsafeUrl("The URL must not carry a user name or password.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(
        scheme=parts.scheme,
        host=host,
        port=port or _DEFAULT_PORTS[parts.scheme],
        path=quote(path, safe="%/:=&?~#+!$,;'@()*[]"),  # only non-ASCII letters change
    )


def resolve(target: Target, *, policy: AddressPolicy, timeout_s: float) -> list[str]:
    """The numeric addresses of the target, in the resolver's order; resolved once, so that what was checked is what is
    connected to. One forbidden address among them condemns the name.

    Raises UnsafeUrl or NameNotResolved.
    """
    addresses = _look_up(target.host, target.port, timeout_s=timeout_s)
    if policy is AddressPolicy.PUBLIC and not all(is_public(address) for address in addresses):
        raise UnsafeUrl(f"{target.host} stands for an address that is not on the public internet.")
    return addresses


def is_public(address: str) -> bool:
    """Whether a numeric address is an ordinary one of the public internet, reachable as written."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        return ip.is_global and ip in _GLOBAL_UNICAST_V6 and not any(ip in network for network in _REFUSED_V6)
    return ip.is_global and not any(ip in network for network in _REFUSED_V4)


def _look_up(host: str, port: int, *, timeout_s: float) -> list[str]:
    # getaddrinfo takes no timeout, so it runs in a thread that may be left behind
    answers: queue.Queue[list[str] | OSError | UnicodeError] = queue.Queue(maxsize=1)

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=ask, name=f"resolve {host}", daemon=True).start()
    try:
        answer = answers.get(timeout=max(timeout_s, 0.001))
    except queue.Empty:
        raise NameNotResolved(f"The name server gave no address for {host} in time.") from None
    if isinstance(answer, Exception):
        raise NameNotResolved(f"The name {host} cannot be resolved.") from answer
    return answer
