"""Where Alembic starts: it runs this file for every command.

`models.migrate` hands over a connection; for a person at a shell the database is DATABASE_URL.
"""

import os

from alembic import context
from sqlalchemy import Connection, create_engine, pool

from models.database import psycopg_url
from models.tables import metadata


def main() -> None:
    handed_over = context.config.attributes.get("connection")
    if handed_over is not None:
        run(handed_over)
        return
    engine = create_engine(psycopg_url(os.environ["DATABASE_URL"]), poolclass=pool.NullPool)
    with engine.connect() as connection:
        run(connection)


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()


main()
