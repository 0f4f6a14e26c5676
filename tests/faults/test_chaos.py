"""A short chaos run at the tests' own clock; the long one is for people. See `docs/reliability.md`."""

import re
import subprocess
import sys

import pytest


@pytest.mark.timeout(240)
def test_nothing_is_lost_when_everything_breaks_at_random() -> None:
    arguments = ["--jobs", "25", "--minutes", "0.5", "--seed", "20", "--clock", "0.1"]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.faults.chaos", *arguments], capture_output=True, text=True, timeout=200
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    summary = ended.stdout.splitlines()[-1]
    jobs, faults = (int(number) for number in re.findall(r"(\d+) (?:jobs|faults)", summary))
    assert summary.startswith("held: 25 jobs")
    assert jobs == 25
    assert faults >= 10
