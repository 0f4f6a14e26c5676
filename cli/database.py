"""The database of the service, for commands that work on it itself: `keys`, `workers`.

Knows DATABASE_URL, or the database of the running `run.py up`.
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cli.errors import CommandError, ExitCode

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@contextlib.contextmanager
def transaction() -> "Iterator[Session]":
    """One transaction on the database of the service. A database that is not there is said in a sentence."""
    from psycopg.errors import UndefinedTable
    from sqlalchemy.exc import ArgumentError, OperationalError, ProgrammingError

    from cli.connection import find_database_url
    from models.database import Database, create_database_engine

    url = find_database_url()
    try:
        engine = create_database_engine(url, application_name="realvideo-command", pool_size=1)
        with contextlib.closing(Database(engine)) as database, database.transaction() as session:
            yield session
    except (ArgumentError, OperationalError) as error:
        reason = str(error).splitlines()[0]
        raise CommandError(f"the database cannot be used: {reason}", exit_code=ExitCode.UNREACHABLE) from error
    except ProgrammingError as error:
        if not isinstance(error.orig, UndefinedTable):
            raise
        raise CommandError(
            "the database has not our tables yet; run `realvideo migrate` first.", exit_code=ExitCode.UNREACHABLE
        ) from error
