"""The directories of attempts: one for each, and none that is left."""

import os
from pathlib import Path
from typing import Any

import pytest

from worker.tasks.attempt_directories import AttemptDirectories


def test_each_attempt_has_its_own_and_leaves_none(tmp_path: Path) -> None:
    attempts = AttemptDirectories(tmp_path / "attempts")
    with attempts.of("job_1", attempt=1) as first, attempts.of("job_2", attempt=3) as second:
        (first / "video.mp4").touch()
        (second / "video.mp4").touch()
        assert sorted(path.name for path in first.parent.iterdir()) == ["job_1.1", "job_2.3"]
    assert list((tmp_path / "attempts").iterdir()) == []


def test_what_a_killed_consumer_left_is_removed_and_what_lives_is_not(tmp_path: Path) -> None:
    left = tmp_path / "job_0.1"
    left.mkdir()
    (left / "half of a video").touch()
    attempts = AttemptDirectories(tmp_path)
    with attempts.of("job_1", attempt=1) as living:
        assert not left.exists()
        with attempts.of("job_2", attempt=1):
            assert living.is_dir()


def test_what_is_still_written_to_is_left_for_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left = tmp_path / "job_0.1"
    left.mkdir()
    rmdir = os.rmdir

    def write_and_rmdir(path: str, **more: Any) -> None:
        (left / "segment").touch()  # by the group, right before the directory goes
        rmdir(path, **more)

    attempts = AttemptDirectories(tmp_path)
    with monkeypatch.context() as patch, caplog.at_level("INFO"):
        patch.setattr(os, "rmdir", write_and_rmdir)
        with attempts.of("job_1", attempt=1):
            assert left.exists()
            patch.undo()
    assert "left for the next attempt" in caplog.text
    with attempts.of("job_2", attempt=1):
        assert not left.exists()
