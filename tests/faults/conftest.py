"""One installation for all tests of this folder in a process; each test finds every part of it ready."""

import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.faults.armed import CLOCK, MUTANT
from tests.faults.checker import check
from tests.faults.installation import Installation, running_installation
from tests.servers.swift import S3Server

QUICK_CLOCK = "0.1"
TIMEOUT_S = max(300.0, 1500 * float(os.environ.get(CLOCK, QUICK_CLOCK)))
HAS_PASSED = pytest.StashKey[bool]()


@pytest.fixture(scope="package")  # its clocks are quick: beside the tests of other folders it would take their time
def _installation(s3_server: S3Server) -> Iterator[Installation]:
    clock, mutant = float(os.environ.get(CLOCK, QUICK_CLOCK)), os.environ.get(MUTANT, "")
    with tempfile.TemporaryDirectory(prefix="realvideo-faults-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with running_installation(directory, s3_server, clock=clock, nodes=2, mutant=mutant) as installation:
            yield installation


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leases and restarts take their time, and on a busy machine a whole installation does."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[HAS_PASSED] = report.passed
    return report


@pytest.fixture
def installation(_installation: Installation, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """All parts ready before, and all five invariants after a test that passed."""
    _installation.restore()
    yield _installation
    if not request.node.stash.get(HAS_PASSED, False):
        return
    _installation.restore()
    _installation.wait_for_all_ends(timeout_s=_installation.seconds(140) + 60)
    check(_installation, webhooks_within_s=_installation.seconds(140) + 30)
