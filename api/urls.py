"""Which URLs a client may name: the form only. Knows URL syntax and IP addresses; resolves no name.

Whoever fetches or posts resolves the name, checks each address and pins it; here the plainly wrong is told at once.
"""

import ipaddress
import re
import socket
from urllib.parse import urlsplit

MAX_LENGTH = 2048
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")
_INTERNAL_SUFFIXES = ("localhost", "local", "internal", "lan", "home.arpa")
_EMBEDS_IPV4 = tuple(ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "::/96"))


def complaint_about(url: str, *, schemes: tuple[str, ...], allow_private: bool) -> str | None:
    """What is wrong with a URL, in words; None if it may be used. `schemes` without `://`."""
    if len(url) > MAX_LENGTH:
        return f"is longer than {MAX_LENGTH} characters"
    if _FORBIDDEN.search(url):
        return "contains a space, a backslash or a control character"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "cannot be read"
    if parts.scheme not in schemes:
        return f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}"
    if not host or port == 0:
        return "names no host"
    if parts.username is not None or parts.password is not None:
        return "must not carry a user name or password"
    if parts.fragment:
        return "must not have a fragment"
    try:
        name = host.encode("idna").decode("ascii").lower().rstrip(".")
    except UnicodeError:
        return "names a host that cannot exist"
    if allow_private:
        return None
    if "." not in name and ":" not in name:
        address = _as_address(name)
        return "names a host of a private network" if address is None or not _is_public(address) else None
    if any(name == suffix or name.endswith(f".{suffix}") for suffix in _INTERNAL_SUFFIXES):
        return "names a host of a private network"
    address = _as_address(name)
    if address is not None and not _is_public(address):
        return "names an address that is not on the public internet"
    return None


def _as_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address in any spelling that a resolver takes, such as 127.1, 0x7f000001 or 2130706433."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return _is_public(address.ipv4_mapped)
        if any(address in network for network in _EMBEDS_IPV4):
            return False
    return address.is_global and not address.is_multicast
