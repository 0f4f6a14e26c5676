"""Engine, sessions and transactions. One request or one task step is one transaction."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.orm import Session, sessionmaker

import models.tables  # noqa: F401 - whoever writes one table needs to know those that it refers to
from models.patient_connection import PatientConnection

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_MS = 30_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 60_000


def psycopg_url(database_url: str) -> URL:
    """`postgresql://…` as people write it, with the driver this project uses."""
    url = make_url(database_url)
    return url.set(drivername="postgresql+psycopg") if url.drivername in ("postgres", "postgresql") else url


def create_database_engine(database_url: str, *, application_name: str, pool_size: int = 10) -> Engine:
    """An engine whose every wait ends: connecting, a statement, an idle transaction, an answer of a frozen server."""
    engine = create_engine(
        psycopg_url(database_url),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=CONNECT_TIMEOUT_S,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": application_name,
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
            "options": (
                f"-c statement_timeout={STATEMENT_TIMEOUT_MS}"
                f" -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT_MS}"
                " -c timezone=UTC"
            ),
        },
    )
    event.listen(engine, "do_connect", _connect)
    return engine


def _connect(
    _dialect: Any, _record: Any, arguments: Sequence[Any], named: Mapping[str, Any]
) -> psycopg.Connection[Any]:
    return PatientConnection.connect(*arguments, **named)


class Database:
    """An engine and its transactions."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._sessions = sessionmaker(engine, expire_on_commit=False)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction: committed at the end of the block, rolled back when it raises."""
        with self._sessions.begin() as session:
            yield session

    def close(self) -> None:
        self.engine.dispose()
