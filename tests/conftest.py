"""Fixtures every test may use: a real Postgres and a real Valkey, and rows to begin with.

The servers are embedded ones, one of each per test process, unless DATABASE_URL or BROKER_URL name others. Every test
finds the database migrated and empty, and the broker empty.
"""

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis
from sqlalchemy import make_url

from infra.local.postgres import EmbeddedPostgres
from infra.local.valkey import EmbeddedValkey
from models.database import Database, create_database_engine
from models.job import Job
from models.migrate import upgrade
from models.tables import metadata
from models.tenant import Tenant
from models.webhook import WebhookEndpoint
from tests import factories

pytest_plugins = ["tests.fixtures_s3"]

END_OTHERS = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
# quicker than TRUNCATE, which makes new files; the triggers guard updates only
DELETE_EVERYTHING = "; ".join(f'DELETE FROM "{table.name}"' for table in reversed(metadata.sorted_tables))


def pytest_configure() -> None:
    """Before PyTorch is imported: test processes beside each other must not have more threads than processors.

    Threads of one small product wait for each other by spinning, which costs minutes where processors are short.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty, migrated database of this test alone."""
    database = Database(create_database_engine(database_url, application_name="tests", pool_size=5))
    yield database
    database.close()


@pytest.fixture
def database_url(_test_database: str) -> str:
    """The URL of an empty, migrated database of this test alone, for other processes. Not for changes of the schema."""
    with psycopg.connect(_test_database, autocommit=True, connect_timeout=5) as connection:
        connection.execute(END_OTHERS)  # whatever a test before left open
        connection.execute(DELETE_EVERYTHING)
    return _test_database


@pytest.fixture
def spare_database_url(_server_url: str) -> Iterator[str]:
    """The URL of a database without tables, to be migrated and spoiled at will."""
    with _new_database(_server_url) as url:
        yield url


@pytest.fixture
def broker_url(_broker_server: str) -> str:
    """The URL of an empty broker. One named by BROKER_URL is emptied, that database number of it."""
    with redis.Redis.from_url(_broker_server, socket_timeout=5) as client:
        client.flushdb()
    return _broker_server


@pytest.fixture
def tenant(database: Database) -> Tenant:
    with database.transaction() as session:
        return factories.add_tenant(session)


@pytest.fixture
def make_job(database: Database, tenant: Tenant) -> Callable[..., Job]:
    """`make_job(**columns)`: a committed job of `tenant`, queued unless the columns say otherwise."""

    def make(**columns: object) -> Job:
        with database.transaction() as session:
            return factories.add_job(session, **{"tenant_id": tenant.id, **columns})

    return make


@pytest.fixture
def make_endpoint(database: Database, tenant: Tenant) -> Callable[..., WebhookEndpoint]:
    """`make_endpoint(**columns)`: a committed webhook endpoint of `tenant`."""

    def make(**columns: object) -> WebhookEndpoint:
        with database.transaction() as session:
            return factories.add_endpoint(session, **{"tenant_id": tenant.id, **columns})

    return make


@pytest.fixture
def own_postgres(server_directory: Path) -> Iterator[EmbeddedPostgres]:
    """A server of this test alone with an empty, migrated database, to be stopped and killed at will."""
    with EmbeddedPostgres(server_directory / "own-postgres", durable=False).running() as server:
        upgrade(server.url)
        yield server


@pytest.fixture
def own_valkey(server_directory: Path) -> Iterator[EmbeddedValkey]:
    """A server of this test alone, to be stopped and killed at will."""
    with EmbeddedValkey(server_directory / "own-valkey").running() as server:
        yield server


@pytest.fixture
def server_directory() -> Iterator[Path]:
    """An empty directory that the ordinary user a server runs as can get to, unlike pytest's `tmp_path`."""
    with _open_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def _test_database(_server_url: str) -> Iterator[str]:
    with _new_database(_server_url) as url:
        upgrade(url)
        yield url


@pytest.fixture(scope="session")
def _server_url() -> Iterator[str]:
    if "DATABASE_URL" in os.environ:
        yield os.environ["DATABASE_URL"]
        return
    with _open_directory() as directory, EmbeddedPostgres(directory, durable=False).running() as server:
        yield server.url


@pytest.fixture(scope="session")
def _broker_server() -> Iterator[str]:
    if "BROKER_URL" in os.environ:
        yield os.environ["BROKER_URL"]
        return
    with _open_directory() as directory, EmbeddedValkey(directory).running() as server:
        yield server.url


@contextmanager
def _new_database(server_url: str) -> Iterator[str]:
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(server_url, autocommit=True, connect_timeout=5) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        with psycopg.connect(server_url, autocommit=True, connect_timeout=5) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def _open_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="realvideo-tests-", dir=_fast_place()))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def _fast_place() -> Path | None:
    """Memory instead of a disk, where there is plenty; None: the usual place for temporary files."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > 4 * 2**30 else None
