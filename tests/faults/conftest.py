"""One installation for all tests of a process; each test finds every part of it ready."""

import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.faults.armed import CLOCK, MUTANT
from tests.faults.checker import check
from tests.faults.installation import Installation, running_installation

QUICK_CLOCK = "0.1"
HAS_PASSED = pytest.StashKey[bool]()


@pytest.fixture(scope="session")
def _installation() -> Iterator[Installation]:
    clock, mutant = float(os.environ.get(CLOCK, QUICK_CLOCK)), os.environ.get(MUTANT, "")
    with tempfile.TemporaryDirectory(prefix="realvideo-faults-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with running_installation(directory, clock=clock, nodes=2, mutant=mutant) as installation:
            yield installation


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
    for job_id in sorted(_installation.acknowledged):
        _installation.wait_for_end(job_id)
    check(_installation)
