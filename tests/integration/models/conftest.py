import pytest

from models.database import Database
from tests.integration.models.steps import Steps


@pytest.fixture
def steps(database: Database) -> Steps:
    return Steps(database)
