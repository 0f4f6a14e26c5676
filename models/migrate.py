"""Bringing a database to the schema of this code. Knows Alembic; several processes may call it at once."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.errors import LockNotAvailable
from sqlalchemy import Connection, create_engine, pool, text
from sqlalchemy.exc import OperationalError

from models.database import CONNECT_TIMEOUT_S, psycopg_url

LOCK_KEY = 0x5265616C  # any number that no other program on this server takes
LOCK_TIMEOUT_S = 60


class MigrationLockedError(Exception):
    """Another process held the migration lock, or a table, for longer than a migration waits."""


def upgrade(database_url: str, revision: str = "head") -> None:
    """Migrate to the newest revision, or to `revision`, in one transaction; does nothing when it is there already."""
    with _locked(database_url) as config:
        command.upgrade(config, revision)


def downgrade(database_url: str, revision: str) -> None:
    """Migrate back to `revision`; `base` drops everything."""
    with _locked(database_url) as config:
        command.downgrade(config, revision)


def is_current(connection: Connection) -> bool:
    """True if the database has exactly the schema this code was written for."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    return MigrationContext.configure(connection).get_current_revision() == newest


@contextmanager
def _locked(database_url: str) -> Iterator[Config]:
    engine = create_engine(
        psycopg_url(database_url),
        poolclass=pool.NullPool,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "realvideo-migrate",
            "options": f"-c lock_timeout={LOCK_TIMEOUT_S}s",
        },
    )
    config = _config()
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
            config.attributes["connection"] = connection
            yield config
    except OperationalError as error:
        if isinstance(error.orig, LockNotAvailable):
            raise MigrationLockedError(f"waited {LOCK_TIMEOUT_S} s for a lock; is another migration stuck?") from error
        raise


def _config() -> Config:
    spec = importlib.util.find_spec("migrations")
    assert spec is not None
    assert spec.origin is not None
    config = Config()
    config.set_main_option("script_location", str(Path(spec.origin).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
