"""The running stack that the tests of this folder share."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.client import Service
from cli.connection import ServiceConnection
from tests.e2e.up_process import UpProcess, still_alive


@pytest.fixture
def state_directory() -> Iterator[Path]:
    """An empty state directory that the user of Postgres can get to, unlike pytest's `tmp_path`."""
    yield from _state_directory()


@pytest.fixture(scope="package")
def up() -> Iterator[UpProcess]:
    """`run.py up`, ready, and stopped by Ctrl-C at the end, after which no process may be left."""
    for state in _state_directory():
        stack = UpProcess(state, ranks=3)
        try:
            stack.wait_until_up()
            yield stack
            started = stack.descendants()
            assert stack.interrupt() == 0, stack.terminal
            assert still_alive(started) == []
        finally:
            stack.kill()


@pytest.fixture
def service(up: UpProcess) -> Iterator[Service]:
    connection = up.wait_until_up()
    with Service(ServiceConnection(connection.url, connection.api_key)) as service:
        yield service


def _state_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="realvideo-up-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        for sign in directory.rglob("elsewhere"):
            shutil.rmtree(sign.resolve(), ignore_errors=True)
        shutil.rmtree(directory)
