"""The servers from wheels: what survives a crash, what is said when they do not start, and that no orphan stays."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from infra.local import accounts
from infra.local.accounts import can_reach, ordinary_account
from infra.local.embedded import EmbeddedServer
from infra.local.postgres import EmbeddedPostgres, reachable_binaries
from infra.local.process import (
    NotExecutableError,
    NotReadyError,
    PortTakenError,
    ServerDiedError,
    ServerProcess,
)
from infra.local.valkey import EmbeddedValkey

MakeServer = Callable[[Path, int], EmbeddedServer]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user to become")


def postgres(directory: Path, port: int | None = None) -> EmbeddedPostgres:
    return EmbeddedPostgres(directory, durable=False, port=port)


def valkey(directory: Path, port: int | None = None) -> EmbeddedValkey:
    return EmbeddedValkey(directory, port=port)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("durable", [True, False])
def test_what_postgres_committed_survives_its_crash(server_directory: Path, durable: bool) -> None:
    with EmbeddedPostgres(server_directory / "postgres", durable=durable).running() as server:
        url, pid = server.url, server.pid
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 'ü' AS word")
        server.kill()
        assert not server.is_running
        server.start()
        assert (server.url, server.pid != pid) == (url, True)
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT word FROM kept").fetchall() == [("ü",)]
    with (
        # with the password as kept
        EmbeddedPostgres(server_directory / "postgres", durable=durable).running() as again,
        psycopg.connect(again.url) as connection,
    ):
        assert connection.execute("SELECT word FROM kept").fetchall() == [("ü",)]


def test_nobody_gets_into_postgres_without_its_password(server_directory: Path) -> None:
    with EmbeddedPostgres(server_directory, durable=False).running() as server:
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.url, password="guess").close()
        assert (server_directory / "password").stat().st_mode & 0o077 == 0


def test_nobody_gets_into_valkey_without_its_password(server_directory: Path) -> None:
    with EmbeddedValkey(server_directory).running() as server:
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


def test_valkey_keeps_what_it_was_told_to_keep_and_evicts_nothing(server_directory: Path) -> None:
    with EmbeddedValkey(server_directory / "kept", durable=True).running() as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("key", "value")
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        server.stop()
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("key") == b"value"
    with EmbeddedValkey(server_directory / "lost").running() as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
        server.kill()
        server.start()
        assert client.get("key") is None


@pytest.mark.parametrize("make_server", [postgres, valkey])
def test_a_taken_port_is_named_as_the_reason(server_directory: Path, taken_port: int, make_server: MakeServer) -> None:
    server = make_server(server_directory, taken_port)
    with pytest.raises(PortTakenError, match=r"(?s)its log, .* ends:.*[Aa]ddress already in use"):
        server.start()
    assert not server.is_running


def test_a_directory_of_something_else_ends_the_start_with_the_servers_own_words(server_directory: Path) -> None:
    with EmbeddedPostgres(server_directory, durable=False).running():
        pass
    account = ordinary_account()
    (server_directory / "data" / "PG_VERSION").write_text("9.6\n")
    if account is not None:
        os.chown(server_directory / "data" / "PG_VERSION", account.uid, account.gid)
    with pytest.raises(ServerDiedError, match="version"):
        postgres(server_directory).start()


def test_a_program_that_is_not_there_is_named_as_the_reason(tmp_path: Path) -> None:
    server = ServerProcess("Nothing", ["/nowhere/nothing"], log=tmp_path / "log", stop_signal=signal.SIGTERM)
    with pytest.raises(NotExecutableError, match=r"(?s)/nowhere/nothing.*No such file"):
        server.start(lambda: False, timeout_s=10)


def test_a_server_that_never_gets_ready_is_ended(tmp_path: Path) -> None:
    server = ServerProcess("Sleeper", ["/bin/sleep", "60"], log=tmp_path / "log", stop_signal=signal.SIGTERM)
    with pytest.raises(NotReadyError, match=r"was not ready within 0\.2 s"):
        server.start(lambda: False, timeout_s=0.2)
    assert not server.is_running


def test_a_server_that_ignores_the_request_to_stop_is_killed(tmp_path: Path) -> None:
    script = "trap '' TERM; echo ready; while true; do sleep 0.1; done"
    server = ServerProcess("Stubborn", ["/bin/sh", "-c", script], log=tmp_path / "log", stop_signal=signal.SIGTERM)
    server.start(lambda: "ready" in server.log_tail(), timeout_s=10)
    children = psutil.Process(server.pid).children(recursive=True)
    server.stop(timeout_s=0.3)
    assert not server.is_running
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)


def test_servers_end_with_the_process_that_started_them(server_directory: Path) -> None:
    program = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from infra.local.postgres import EmbeddedPostgres
        from infra.local.valkey import EmbeddedValkey
        servers = [EmbeddedPostgres(Path({str(server_directory)!r}, "p"), durable=True),
                   EmbeddedValkey(Path({str(server_directory)!r}, "v"))]
        for server in servers:
            server.start()
        print(*(server.pid for server in servers), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    pids = [int(word) for word in ended.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while any(_lives(pid) for pid in pids):
        assert time.monotonic() < deadline, "a server outlived its parent"
        time.sleep(0.05)


@needs_root
def test_as_root_postgres_runs_as_an_ordinary_user(server_directory: Path) -> None:
    with EmbeddedPostgres(server_directory, durable=False).running() as server:
        assert psutil.Process(server.pid).uids().effective == ordinary_account().uid  # type: ignore[union-attr]


@needs_root
def test_below_a_closed_directory_postgres_gets_a_place_and_programs_it_can_reach(
    tmp_path: Path, server_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(accounts, "SHARED_HOME", server_directory / "shared")
    account = ordinary_account()
    assert account is not None
    assert not can_reach(closed, account)
    with (
        EmbeddedPostgres(closed / "postgres", durable=False).running() as server,
        psycopg.connect(server.url) as connection,
    ):
        (found,) = connection.execute("SHOW data_directory").fetchone() or ("",)
    assert Path(found).is_relative_to(server_directory / "shared")
    assert (closed / "postgres" / "elsewhere").resolve() == Path(found).parent


@needs_root
def test_programs_that_the_user_cannot_reach_are_copied_to_where_it_can(
    server_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = reachable_binaries(server_directory, None)
    account = ordinary_account()
    monkeypatch.setattr(
        "infra.local.postgres.can_reach",
        lambda path, account: not path.is_relative_to(wheel) and can_reach(path, account),
    )
    copied = reachable_binaries(server_directory, account)
    assert copied.is_relative_to(server_directory)
    with EmbeddedPostgres(server_directory, durable=False).running() as server:
        assert Path(psutil.Process(server.pid).exe()) == copied / "postgres"


def test_a_half_made_data_directory_is_made_anew(server_directory: Path) -> None:
    (server_directory / "data.unfinished").mkdir()
    (server_directory / "data.unfinished" / "base").write_text("the power failed here")
    with EmbeddedPostgres(server_directory, durable=False).running() as server:
        assert server.is_running
    shutil.rmtree(server_directory / "data")


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
