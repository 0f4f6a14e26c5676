"""`realvideo keys` and `migrate` against a real database."""

import os
import subprocess
import sys

from sqlalchemy import select

from api.keys import Scope, authenticate
from infra.local.postgres import EmbeddedPostgres
from models.database import Database
from models.tenant import Tenant


def test_a_key_is_made_for_a_new_tenant_and_revoked(database: Database, database_url: str) -> None:
    created = realvideo(database_url, "keys", "create", "--tenant", "acme", "--scope", "jobs:read", "--days", "2")
    token = created.stdout.strip()
    with database.transaction() as session:
        principal = authenticate(session, token)
        assert principal is not None
        assert principal.scopes == {Scope.JOBS_READ}
        assert principal.tenant_id == session.scalar(select(Tenant.id).where(Tenant.name == "acme"))
    listed = realvideo(database_url, "keys", "list", "--tenant", "acme")
    assert principal.key_id in listed.stdout
    assert token.rpartition("_")[2] not in listed.stdout
    realvideo(database_url, "keys", "revoke", principal.key_id, "--tenant", "acme")
    with database.transaction() as session:
        assert authenticate(session, token) is None


def test_another_tenants_key_is_not_revoked(database: Database, database_url: str) -> None:
    token = realvideo(database_url, "keys", "create", "--tenant", "acme").stdout.strip()
    realvideo(database_url, "keys", "create", "--tenant", "other")
    with database.transaction() as session:
        principal = authenticate(session, token)
    assert principal is not None
    refused = realvideo(database_url, "keys", "revoke", principal.key_id, "--tenant", "other", status=1)
    assert "has no key" in refused.stderr
    with database.transaction() as session:
        assert authenticate(session, token) is not None


def test_an_unknown_scope_is_refused_with_those_there_are(database_url: str) -> None:
    refused = realvideo(database_url, "keys", "create", "--scope", "everything", status=2)
    assert "jobs:write" in refused.stderr


def test_keys_before_the_tables_say_what_to_run_and_migrate_makes_them(own_postgres: EmbeddedPostgres) -> None:
    empty = own_postgres.url_of("template1")
    refused = realvideo(empty, "keys", "create", status=3)
    assert "realvideo migrate" in refused.stderr
    assert "Traceback" not in refused.stderr
    realvideo(empty, "migrate")
    realvideo(empty, "migrate")
    assert realvideo(empty, "keys", "create").stdout.startswith("rv_")


def realvideo(database_url: str, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    answered = subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "DATABASE_URL": database_url, "COLUMNS": "200"},
    )
    assert answered.returncode == status, answered.stderr
    return answered
