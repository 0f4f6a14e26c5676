"""Measurements in processes of their own: what they found comes home, and no process stays, however one ends."""

import time
from pathlib import Path

import psutil
import pytest

from tests.unit.bench.answers import Answer, Job
from worker.bench.ranks import CannotMeasure, RankBroke, in_ranks

MODULE = "tests.unit.bench.answers"
DEVICES = ("cpu", "cpu")


def test_every_rank_answers_in_its_place(tmp_path: Path) -> None:
    said: list[str] = []
    found = in_ranks(MODULE, Job("answer", tmp_path), finds=Answer, devices=DEVICES, threads=1, say=said.append)
    assert [(one.rank, one.world_size, one.device) for one in found] == [(0, 2, "cpu"), (1, 2, "cpu")]
    assert all(0 < one.seconds_since_start < 60 for one in found)
    assert sorted(said) == ["rank 0: answer on cpu", "rank 1: answer on cpu"]
    assert_gone(tmp_path, ranks=2)


@pytest.mark.parametrize(
    ("ending", "error", "said"),
    [
        ("impossible", CannotMeasure, "^there is no such thing here$"),
        ("failure", RankBroke, "rank 1 failed:(.|\n)*what the rank was doing"),
        ("death", RankBroke, "^rank 1 died$"),
    ],
)
def test_when_one_rank_ends_badly_the_others_are_ended_at_once(
    tmp_path: Path, ending: str, error: type[Exception], said: str
) -> None:
    began = time.monotonic()
    with pytest.raises(error, match=said):
        in_ranks(MODULE, Job(ending, tmp_path), finds=Answer, devices=DEVICES, threads=1, say=lambda _: None)
    assert time.monotonic() - began < 60
    assert_gone(tmp_path, ranks=2)


def test_ranks_that_say_nothing_for_too_long_are_ended(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(RankBroke, match="no rank said anything for"):
        in_ranks(
            MODULE,
            Job("silence", tmp_path),
            finds=Answer,
            devices=("cpu",),
            threads=1,
            say=said.append,
            silence_deadline_s=5.0,
        )
    assert_gone(tmp_path, ranks=1)


def assert_gone(pids: Path, *, ranks: int) -> None:
    started = [int(file.name) for file in pids.iterdir()]
    assert len(started) <= ranks
    assert [pid for pid in started if psutil.pid_exists(pid)] == []
