"""A socket whose every wait ends: after a while of silence, and at the deadline of the whole exchange.

Knows sockets and monotonic time. Knows no HTTP.
"""

import io
import socket
import time
from typing import BinaryIO

IDLE_TIMEOUT_S = 20.0
CHUNK_BYTES = 256 * 1024


def open_socket(address: str, port: int, *, timeout_s: float) -> socket.socket:
    # not socket.create_connection, which would look the address up once more
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        sock.settimeout(timeout_s)
        sock.connect((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


class TimedSocket:
    """What http.client uses of a socket, with every wait cut off at the deadline."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline

    def sendall(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._sock.settimeout(remaining(self._deadline, IDLE_TIMEOUT_S))
            view = view[self._sock.send(view) :]

    def makefile(self, _mode: str) -> BinaryIO:
        return io.BufferedReader(_TimedReader(self._sock, self._deadline), CHUNK_BYTES)

    def close(self) -> None:
        """Does nothing: http.client closes before the body is read; the request closes the socket itself."""


class _TimedReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._sock.settimeout(remaining(self._deadline, IDLE_TIMEOUT_S))
        return self._sock.recv_into(buffer)


def remaining(deadline: float, at_most: float) -> float:
    """Seconds that are left, but not more than `at_most`. Raises TimeoutError when none are."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("deadline")
    return min(left, at_most)
