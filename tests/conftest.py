"""Fixtures every test may use: a real Postgres and a real Valkey, and rows to begin with.

The servers are embedded ones, one of each per test process, unless DATABASE_URL or BROKER_URL name others. Every test
gets a database of its own, copied from a migrated template, and an empty broker.
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

from infra.local.postgres import EmbeddedPostgres, embedded_postgres
from infra.local.valkey import EmbeddedValkey, embedded_valkey
from models.database import Database, create_database_engine
from models.job import Job
from models.migrate import upgrade
from models.tenant import Tenant
from models.webhook import WebhookEndpoint
from tests import factories

pytest_plugins = ["tests.fixtures_s3"]


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty, migrated database of this test alone."""
    database = Database(create_database_engine(database_url, application_name="tests", pool_size=5))
    yield database
    database.close()


@pytest.fixture
def database_url(_template_database: tuple[str, str]) -> Iterator[str]:
    """The URL of an empty, migrated database of this test alone, for other processes."""
    server_url, template = _template_database
    name = f"test_{secrets.token_hex(6)}"
    with _administration(server_url) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')
    yield _in_database(server_url, name)
    with _administration(server_url) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture
def broker_url(_broker_server: str) -> str:
    """The URL of an empty broker."""
    with redis.Redis.from_url(_broker_server, socket_timeout=5) as client:
        client.flushall()
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
    with embedded_postgres(server_directory / "own-postgres", durable=False) as server:
        upgrade(server.url)
        yield server


@pytest.fixture
def own_valkey(server_directory: Path) -> Iterator[EmbeddedValkey]:
    """A server of this test alone, to be stopped and killed at will."""
    with embedded_valkey(server_directory / "own-valkey") as server:
        yield server


@pytest.fixture
def server_directory() -> Iterator[Path]:
    """An empty directory that the ordinary user a server runs as can get to, unlike pytest's `tmp_path`."""
    with _open_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def _template_database() -> Iterator[tuple[str, str]]:
    """The URL of a server, and the name of a migrated database there to copy."""
    with _postgres_url() as server_url:
        name = f"template_{secrets.token_hex(6)}"
        with _administration(server_url) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        upgrade(_in_database(server_url, name))
        yield server_url, name
        with _administration(server_url) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def _broker_server() -> Iterator[str]:
    if "BROKER_URL" in os.environ:
        yield os.environ["BROKER_URL"]
        return
    with _open_directory() as directory, embedded_valkey(directory) as server:
        yield server.url


@contextmanager
def _postgres_url() -> Iterator[str]:
    if "DATABASE_URL" in os.environ:
        yield os.environ["DATABASE_URL"]
        return
    with _open_directory() as directory, embedded_postgres(directory, durable=False) as server:
        yield server.url


@contextmanager
def _open_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="realvideo-tests-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@contextmanager
def _administration(server_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server_url, autocommit=True, connect_timeout=5) as connection:
        yield connection


def _in_database(server_url: str, name: str) -> str:
    base, _, query = server_url.partition("?")
    return f"{base.rsplit('/', 1)[0]}/{name}" + (f"?{query}" if query else "")
