"""A wire that breaks in the way a test asks for: a TCP proxy on loopback in front of a real server."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Spoil = Callable[[bytes], bytes]


class Cut(Exception):
    """Raised by a spoiler to end the connection at once."""


@dataclass
class Proxy:
    """`to_server` and `to_client` change the bytes on their way; `refusals` are answers in place of the server's."""

    port: int
    to_server: Spoil = bytes
    to_client: Spoil = bytes
    refusals: list[bytes] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def faulty_proxy(upstream_port: int) -> Iterator[Proxy]:
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = Proxy(port=listener.getsockname()[1])

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            proxy.connections += 1
            threading.Thread(target=_serve, args=(proxy, client, upstream_port), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield proxy
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _serve(proxy: Proxy, client: socket.socket, upstream_port: int) -> None:
    with client:
        if proxy.refusals:
            client.recv(65536)
            client.sendall(proxy.refusals.pop(0))
            return
        with socket.create_connection(("127.0.0.1", upstream_port), timeout=10) as server:
            back = threading.Thread(
                target=_pump, args=(server, client, lambda data: proxy.to_client(data)), daemon=True
            )
            back.start()
            _pump(client, server, lambda data: proxy.to_server(data))
            back.join(timeout=10)


def _pump(source: socket.socket, sink: socket.socket, spoil: Spoil) -> None:
    with contextlib.suppress(OSError, Cut):
        source.settimeout(60)
        while data := source.recv(65536):
            sink.sendall(spoil(data))
    for sock in (source, sink):
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
