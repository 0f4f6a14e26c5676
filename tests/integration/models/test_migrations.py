"""The migrations make the tables that the code describes, and can be taken back."""

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, text

from models import migrate
from models.database import Database, create_database_engine
from models.tables import metadata

CONSTRAINTS_AND_INDEXES = text("""
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
     WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'
    UNION ALL
    SELECT tablename, indexname, indexdef FROM pg_indexes
     WHERE schemaname = 'public' AND tablename <> 'alembic_version'
    ORDER BY 1, 2, 3
""")
INSERT_JOB = text("""
    INSERT INTO jobs (id, tenant_id, audio_source, image_source, prompt, seed, fps, denoising_steps, length_policy,
        preset, metadata, status, priority, attempt, crash_count, error_retries, blocks_done, width, height)
    VALUES (:id, 'ten_1', 'https://a', 'https://b', 'a person speaks', 0, 16, 2, 'reject',
        'tiny', '{}', 'queued', 'normal', 0, 0, 0, 0, :width, :height)
""")
LET_THE_PICTURE_DECIDE = text("""
    UPDATE jobs SET size_policy = 'reference', width = NULL, height = NULL, status = 'canceled', finished_at = now()
     WHERE id = 'job_new'
""")
OPTIONS = text("SELECT id, width, height, size_policy, audio_mode, sink_rotation FROM jobs ORDER BY id")
SIZES = text("SELECT id, width, height FROM jobs ORDER BY id")
EVERYTHING = text("""
    SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1
""")


def test_the_migrated_tables_are_the_described_ones(database: Database) -> None:
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_constraints_and_indexes_are_the_described_ones_to_the_letter(
    spare_database_url: str, database: Database
) -> None:
    described = create_database_engine(spare_database_url, application_name="tests")
    metadata.create_all(described)
    try:
        assert _rows(database.engine) == _rows(described)
    finally:
        described.dispose()


def test_up_down_and_up_again(spare_database_url: str, database: Database) -> None:
    spare = create_database_engine(spare_database_url, application_name="tests")
    try:
        for _ in range(2):
            migrate.upgrade(spare_database_url)
            assert _names(spare) == _names(database.engine)
            with spare.connect() as connection:
                assert migrate.is_current(connection)
            migrate.downgrade(spare_database_url, "base")
            assert _names(spare) == ["alembic_version", "alembic_version_pkc"]
            with spare.connect() as connection:
                assert not migrate.is_current(connection)
    finally:
        spare.dispose()


def test_jobs_live_through_the_second_version_and_back(spare_database_url: str) -> None:
    spare = create_database_engine(spare_database_url, application_name="tests")
    try:
        migrate.upgrade(spare_database_url, "0001")
        with spare.begin() as connection:
            connection.execute(text("INSERT INTO tenants (id, name) VALUES ('ten_1', 'one')"))
            connection.execute(INSERT_JOB, {"id": "job_old", "width": 480, "height": 640})
        migrate.upgrade(spare_database_url)
        with spare.begin() as connection:
            # an older API that is still running knows none of the new columns
            connection.execute(INSERT_JOB, {"id": "job_between", "width": 64, "height": 96})
            connection.execute(INSERT_JOB, {"id": "job_new", "width": 64, "height": 96})
            connection.execute(LET_THE_PICTURE_DECIDE)
            assert connection.execute(OPTIONS).all() == [
                ("job_between", 64, 96, "exact", "windowed", "exact"),
                ("job_new", None, None, "reference", "windowed", "exact"),
                ("job_old", 480, 640, "exact", "windowed", "exact"),
            ]
        migrate.downgrade(spare_database_url, "0001")
        with spare.connect() as connection:
            assert connection.execute(SIZES).all() == [
                ("job_between", 64, 96), ("job_new", 480, 640), ("job_old", 480, 640),
            ]  # fmt: skip
    finally:
        migrate.downgrade(spare_database_url, "base")
        spare.dispose()


def test_several_processes_may_migrate_at_once(spare_database_url: str) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            migrate.upgrade(spare_database_url)
        except Exception as error:  # noqa: BLE001 - reported by the test
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []


def test_a_migration_that_waits_for_another_too_long_says_so(
    database_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT_S", 0.2)
    with database.engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": migrate.LOCK_KEY})
        with pytest.raises(migrate.MigrationLockedError, match="another migration"):
            migrate.upgrade(database_url)


def _rows(engine: Engine) -> list[tuple[str, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(CONSTRAINTS_AND_INDEXES)]


def _names(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.scalars(EVERYTHING))
