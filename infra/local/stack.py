"""The whole service as own processes of this machine: started in order, watched, stopped in reverse order.

Knows which parts there are and in which order they need each other. Postgres and Valkey are embedded unless
DATABASE_URL and BROKER_URL name others. Every part ends with this process, however that ends.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from infra.local.embedded import EmbeddedServer
from infra.local.parts import Part, Surroundings, our_parts
from infra.local.postgres import EmbeddedPostgres
from infra.local.process import NotReadyError, PortTakenError, ServerDiedError
from infra.local.state import kept_secrets
from infra.local.tenant import local_api_key
from infra.local.valkey import EmbeddedValkey
from models.migrate import upgrade
from worker.usual_preset import SMALL

POLL_S = 0.1


@dataclass(frozen=True)
class StackSettings:
    directory: Path
    """Data and logs. Made if absent; a second start on it finds the data of the first."""
    secrets_directory: Path
    api_port: int
    durable: bool
    """Whether commits wait for the disk."""
    preset: str = SMALL
    ranks: int | None = 3
    """Of the worker's only group; None: the layout decides."""
    layout: str = "auto"
    node_name: str = "local"


OnStep = Callable[[str], AbstractContextManager[None]]
"""Called with what is being done; the context lasts as long as that takes."""


class Stack:
    """One life of all parts: `start`, any use, `stop`. Use it as a context, so that `stop` is never forgotten."""

    def __init__(self, settings: StackSettings, *, on_step: OnStep | None = None) -> None:
        self.settings = settings
        self.api_key = ""
        self.database_url = os.environ.get("DATABASE_URL", "")
        self.broker_url = os.environ.get("BROKER_URL", "")
        self._on_step: OnStep = on_step or (lambda _: contextlib.nullcontext())
        self._running = ExitStack()
        self._parts: list[Part] = []

    def __enter__(self) -> "Stack":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.api_port}"

    @property
    def logs(self) -> Path:
        return self.settings.directory / "logs"

    def start(self) -> None:
        """Raises a `ServerError` that names the part and ends with the last lines of its log."""
        must_be_free(self.settings.api_port)
        home, durable = self.settings.directory, self.settings.durable
        for directory in (self.logs, home / "work"):
            directory.mkdir(parents=True, exist_ok=True)
        if not self.database_url:
            self.database_url = self._started("Postgres", EmbeddedPostgres(home / "postgres", durable=durable))
        if not self.broker_url:
            self.broker_url = self._started("Valkey", EmbeddedValkey(home / "valkey", durable=durable))
        with self._on_step("tables and API key"):
            upgrade(self.database_url)
            self.api_key = local_api_key(self.database_url, keep_in=self.settings.secrets_directory)
        self._start_our_parts()

    def check(self) -> None:
        """Raises `ServerDiedError` when a part has ended by itself."""
        for part in self._parts:
            if not part.process.is_running:
                raise ServerDiedError(
                    f"the {part.name} ended by itself; its log, {part.process.log}, ends:\n{part.process.log_tail()}"
                )

    def stop(self) -> None:
        """Our parts first and together, for none needs another to end; then the queue, then the record.

        Each gets some seconds to end in good order and is killed after them.
        """
        for part in self._parts:
            part.process.ask_to_stop()
        self._running.close()

    def _started(self, name: str, server: EmbeddedServer) -> str:
        """Its URL, until `stop`."""
        with self._on_step(name):
            self._running.callback(server.stop)
            server.start()
        return server.url

    def _start_our_parts(self) -> None:
        """All at once, since most of the time goes into imports; then wait for one after the other."""
        settings = self.settings
        around = Surroundings(
            database_url=self.database_url,
            broker_url=self.broker_url,
            directory=settings.directory,
            secrets=kept_secrets(settings.secrets_directory),
            api_port=settings.api_port,
            preset=settings.preset,
            ranks=settings.ranks,
            layout=settings.layout,
            node_name=settings.node_name,
        )
        started = time.monotonic()
        for part in our_parts(around):
            self._running.callback(part.process.stop, timeout_s=part.stop_timeout_s)
            part.process.start(lambda: True, timeout_s=1)
            self._parts.append(part)
        for part in self._parts:
            with self._on_step(part.name):
                self._wait_for(part, deadline=started + part.start_timeout_s)

    def _wait_for(self, part: Part, *, deadline: float) -> None:
        while not part.is_ready():
            self.check()
            if time.monotonic() > deadline:
                raise NotReadyError(
                    f"the {part.name} was not ready within {part.start_timeout_s:g} s; its log, {part.process.log}, "
                    f"ends:\n{part.process.log_tail()}"
                )
            time.sleep(POLL_S)


def must_be_free(port: int) -> None:
    """Raises `PortTakenError` when something listens on the port of 127.0.0.1."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except PermissionError as error:
            raise PortTakenError(f"port {port} may not be used by this user; choose another with --port") from error
        except OSError as error:
            raise PortTakenError(
                f"port {port} is taken by another program; choose another with --port, for example --port {port + 1}"
            ) from error
