"""Children that never outlive their parent, and consumers that come back."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.unit.group.conftest import members_of
from tests.waiting import wait_for
from worker import consumer_process, signs_of_life
from worker.consumer_process import ConsumerProcess
from worker.processes import ending, kill_groups, start_child

CHILD = "tests.unit.node.dying_consumer"


def test_a_child_dies_with_its_parent_however_that_dies(tmp_path: Path) -> None:
    notes = tmp_path / "stays"
    script = (
        "import time; from worker.processes import start_child;"
        f"start_child({CHILD!r}, [{str(notes)!r}], environment={{}}); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    wait_for(notes.exists)
    wait_for(lambda: notes.read_text() != "")
    child = psutil.Process(int(notes.read_text()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(timeout=5)
    wait_for(lambda: not _is_alive(child), timeout_s=5)


def test_the_end_of_a_child_is_told_in_words_and_does_not_reap_it(tmp_path: Path) -> None:
    child = start_child(CHILD, [str(tmp_path / "dies")], environment={})
    wait_for(lambda: ending(child) is not None)
    assert ending(child) == "exited with status 7"
    assert child.returncode is None
    assert kill_groups([child], timeout_s=3) == []
    assert child.returncode == 7


def test_killing_a_group_takes_the_children_of_a_dead_leader_too(tmp_path: Path) -> None:
    leader = subprocess.Popen(["sh", "-c", "sleep 600 & exit 0"], start_new_session=True)
    wait_for(lambda: ending(leader) == "exited with status 0")
    assert len(members_of((leader.pid,))) == 1
    assert kill_groups([leader], timeout_s=3) == []
    assert members_of((leader.pid,)) == []


def test_a_consumer_that_dies_at_once_is_started_again_ever_more_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.consumer_process.FIRST_PAUSE_S", 0.1)
    notes = tmp_path / "dies"
    consumer = ConsumerProcess(notes, module=CHILD)
    started = time.monotonic()
    while time.monotonic() - started < 2.5:
        consumer.keep_running()
        time.sleep(0.02)
    consumer.kill()
    assert 3 <= len(notes.read_text().split()) <= 5  # pauses of 0.2, 0.4, 0.8, 1.6 s


def test_a_consumer_that_is_killed_comes_back(tmp_path: Path) -> None:
    notes = tmp_path / "stays"
    consumer = ConsumerProcess(notes, module=CHILD)
    try:
        consumer.keep_running()
        wait_for(lambda: notes.exists() and len(notes.read_text().split()) == 1)
        assert consumer.is_running
        os.kill(int(notes.read_text()), signal.SIGKILL)

        def is_back() -> bool:
            consumer.keep_running()
            return len(notes.read_text().split()) == 2

        wait_for(is_back)
    finally:
        consumer.kill()
    assert not consumer.is_running


@pytest.fixture
def _quick_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_process, "QUIET_S", 0.5)
    monkeypatch.setattr(consumer_process, "FROZEN_S", 1.5)


@pytest.mark.usefixtures("_quick_signs")
def test_a_frozen_consumer_makes_the_node_unready_and_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "signs"
    frozen_s, never = consumer_process.FROZEN_S, 1e9
    consumer = ConsumerProcess(notes, module=CHILD)

    def starts() -> list[int]:
        consumer.keep_running()
        return [int(line) for line in notes.read_text().split()] if notes.exists() else []

    try:
        monkeypatch.setattr(consumer_process, "FROZEN_S", never)  # on a busy machine it is quiet for long by itself
        wait_for(lambda: len(starts()) == 1)
        wait_for(lambda: starts() != [] and consumer.is_lively)
        first = starts()[0]
        os.kill(first, signal.SIGSTOP)
        wait_for(lambda: starts() == [first] and consumer.is_running and not consumer.is_lively)
        monkeypatch.setattr(consumer_process, "FROZEN_S", frozen_s)
        assert wait_for(lambda: len(starts()) > 1) < 5
        assert not psutil.pid_exists(first)
        wait_for(lambda: len(starts()) > 1 and consumer.is_lively)
    finally:
        consumer.kill()


@pytest.mark.usefixtures("_quick_signs")
def test_a_node_that_was_frozen_itself_does_not_blame_its_consumer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signs_of_life, "LONGEST_LOOK_S", 0.1)
    notes = tmp_path / "signs"
    consumer = ConsumerProcess(notes, module=CHILD)
    try:
        consumer.keep_running()
        wait_for(lambda: notes.exists() and notes.read_text() != "")
        child = int(notes.read_text())
        wait_for(lambda: consumer.keep_running() is None and consumer.is_lively)
        os.kill(child, signal.SIGSTOP)  # as the whole machine was, and the node with it
        time.sleep(2.0)
        consumer.keep_running()
        os.kill(child, signal.SIGCONT)
        for _ in range(20):
            consumer.keep_running()
            time.sleep(0.05)
        assert [int(line) for line in notes.read_text().split()] == [child]
    finally:
        consumer.kill()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
