"""Surroundings of a worker node: a record, a broker, a storage directory."""

from collections.abc import Callable
from pathlib import Path

import pytest

from models.database import Database
from models.job import Job
from models.tenant import Tenant
from tests.integration.worker.nodes import Surroundings


@pytest.fixture
def around(
    database: Database,
    database_url: str,
    broker_url: str,
    server_directory: Path,
    make_job: Callable[..., Job],
    tenant: Tenant,
) -> Surroundings:
    return Surroundings(
        database=database,
        database_url=database_url,
        broker_url=broker_url,
        directory=server_directory,
        make_job=make_job,
        tenant_id=tenant.id,
    )
