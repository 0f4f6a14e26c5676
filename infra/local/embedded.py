"""What the embedded servers have in common: one process, and a port that stays over restarts. Knows none of them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from infra.local.process import ServerProcess


class EmbeddedServer(ABC):
    """One directory and the server on it."""

    def __init__(self, directory: Path, *, durable: bool, port: int | None) -> None:
        self._directory = directory
        self._durable = durable
        self._port = port
        self._process: ServerProcess | None = None

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Started, and stopped in good order at the end of the block."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    @property
    @abstractmethod
    def url(self) -> str:
        """How clients reach it, with the password."""

    @property
    def pid(self) -> int:
        """Of the process that was started; it may have children."""
        return self._started.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.is_running

    @abstractmethod
    def start(self) -> None:
        """Runs the server on its directory. Raises a `ServerError`."""

    def stop(self) -> None:
        """In good order; after a while by force."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """A crash: SIGKILL to every process of the server."""
        self._started.kill()

    @property
    def _started(self) -> ServerProcess:
        assert self._process is not None, "start it first"
        return self._process
