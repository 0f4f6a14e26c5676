"""`run.py up` and its end: whatever ends it, nothing that it started stays behind."""

import socket
from pathlib import Path

import pytest

from tests.e2e.up_process import STOP_S, UpProcess, still_alive, wait_for

pytestmark = pytest.mark.timeout(300)


def test_ctrl_c_while_it_starts_leaves_no_process(state_directory: Path) -> None:
    up = UpProcess(state_directory, ranks=2, preset=None)
    try:
        started = up.wait_for_a_rank()
        assert up.interrupt() == 0, up.terminal
        assert still_alive(started) == []
        assert "no process is left" in up.terminal
        assert "No 14B weights were given (REALVIDEO_WEIGHTS), so the small avatar preset draws" in up.terminal
    finally:
        up.kill()


def test_a_kill_that_cannot_be_caught_leaves_no_process(state_directory: Path) -> None:
    up = UpProcess(state_directory, ranks=2)
    try:
        started = up.wait_for_a_rank()
        assert len(started) > 8, "postgres, valkey, api, scheduler, webhooks, node and ranks"
    finally:
        up.kill()
    wait_for(lambda: still_alive(started) == [], timeout_s=STOP_S)


def test_a_taken_port_is_told_with_the_option_to_change_it(state_directory: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        up = UpProcess(state_directory, ranks=1, port=port)
        assert up.process.wait(STOP_S) == 1
    assert f"port {port} is taken" in up.terminal
    assert "--port" in up.terminal
    assert "Traceback" not in up.terminal


def test_a_part_that_cannot_start_is_named_with_its_log_and_the_others_end(state_directory: Path) -> None:
    up = UpProcess(state_directory, ranks=1, preset="none-of-ours")
    try:
        assert up.process.wait(STOP_S) == 1
        assert "worker (1 rank) ended by itself" in up.terminal
        assert "unknown preset 'none-of-ours'" in up.terminal
        assert "Traceback" not in up.terminal
    finally:
        up.kill()


def test_a_directory_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "up").write_text("a file where the data should be")
    up = UpProcess(tmp_path, ranks=1)
    assert up.process.wait(STOP_S) == 1
    assert str(tmp_path / "up") in up.terminal
    assert "Traceback" not in up.terminal
