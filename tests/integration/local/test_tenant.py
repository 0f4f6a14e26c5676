"""The local stack's API key: made once, and made again only for a database that does not know it."""

import stat
from pathlib import Path

from api.keys import authenticate
from infra.local.tenant import local_api_key
from models.database import Database


def test_the_key_stays_the_same_over_restarts(database: Database, database_url: str, tmp_path: Path) -> None:
    first = local_api_key(database_url, keep_in=tmp_path)
    assert local_api_key(database_url, keep_in=tmp_path) == first
    assert stat.S_IMODE((tmp_path / "api-key").stat().st_mode) == 0o600
    with database.transaction() as session:
        assert authenticate(session, first) is not None


def test_a_key_that_this_database_does_not_know_is_replaced(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "api-key").write_text(f"rv_{'0' * 26}_{'0' * 64}")
    made = local_api_key(database_url, keep_in=tmp_path)
    assert (tmp_path / "api-key").read_text() == made
    with database.transaction() as session:
        assert authenticate(session, made) is not None
