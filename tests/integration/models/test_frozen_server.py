"""What a client of the record does when the server stops answering without closing the connection."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from infra.local.postgres import EmbeddedPostgres
from models import patient_connection
from models.database import Database, create_database_engine


@pytest.fixture
def database(own_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setattr(patient_connection, "ANSWER_TIMEOUT_S", 1.0)
    database = Database(create_database_engine(own_postgres.url, application_name="tests", pool_size=1))
    yield database
    database.close()


@pytest.mark.parametrize("frozen_at", ["in a statement", "before the commit"])
def test_a_frozen_server_is_given_up_and_found_again(
    database: Database, own_postgres: EmbeddedPostgres, frozen_at: str
) -> None:
    def round_trip(freeze: Callable[[], None]) -> None:
        with database.transaction() as session:
            session.execute(text("SELECT 1"))
            freeze()
            if frozen_at == "in a statement":
                session.execute(text("SELECT 2"))

    with _frozen(own_postgres) as freeze:
        started = time.monotonic()
        with pytest.raises(OperationalError, match="no answer") as caught:
            round_trip(freeze)
        assert 0.9 < time.monotonic() - started < 5
        assert caught.value.connection_invalidated
    round_trip(lambda: None)


def test_a_slow_statement_is_not_taken_for_a_frozen_server(database: Database) -> None:
    with database.transaction() as session:
        for _ in range(4):
            assert session.scalar(text("SELECT 7 FROM pg_sleep(0.4)")) == 7


@contextmanager
def _frozen(server: EmbeddedPostgres) -> Iterator[Callable[[], None]]:
    """Gives the way to freeze all processes of the server, which thaw in the end."""
    stopped: list[psutil.Process] = []

    def freeze() -> None:
        postmaster = psutil.Process(server.pid)
        stopped.extend([postmaster, *postmaster.children(recursive=True)])
        for process in stopped:
            process.suspend()

    try:
        yield freeze
    finally:
        for process in stopped:
            process.resume()
