import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.site import Site, running_site


@pytest.fixture
def receiver() -> Iterator[Site]:
    with running_site() as site:
        yield site


@pytest.fixture
def environment(database_url: str, broker_url: str, tmp_path: Path) -> dict[str, str]:
    """Of a scheduler or a sender as a process of its own."""
    return {
        **os.environ,
        "DATABASE_URL": database_url,
        "BROKER_URL": broker_url,
        "REALVIDEO_STORAGE_DIRECTORY": str(tmp_path),
        "REALVIDEO_STORAGE_SECRET": "a secret of the tests",
        "REALVIDEO_ALLOW_HTTP_URLS": "true",
    }
