from pathlib import Path

import pytest

from models.database import Database
from tests.integration.collector.bucket import Bucket
from tests.integration.models.steps import Steps
from worker.storage import LocalStorage, Storage, open_storage


@pytest.fixture
def steps(database: Database) -> Steps:
    return Steps(database)


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return LocalStorage(tmp_path / "objects")
    return open_storage(request.getfixturevalue("s3_settings"))


@pytest.fixture
def bucket(storage: Storage, tmp_path: Path) -> Bucket:
    return Bucket(storage, tmp_path)
