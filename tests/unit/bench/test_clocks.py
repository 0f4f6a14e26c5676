"""Clocks are read from a real process in the format of nvidia-smi, which ends with the measurement."""

import time
from pathlib import Path

import psutil
import pytest

from tests.waiting import wait_for
from worker.bench.clocks import ClockSampler, parse

ONE, OTHER = "GPU-11111111-2222-3333-4444-555555555555", "GPU-66666666-7777-8888-9999-000000000000"
LINES = f"""
while true; do
  now=$(date +%Y/%m/%d\\ %H:%M:%S.%3N)
  echo "$now, {ONE}, 1530, 698.50, 61, 52000"
  echo "$now, {OTHER}, 1980, 120.00, 40, 1024"
  echo "$now, {OTHER}, [N/A], [N/A], 40, 1024"
  sleep 0.05
done
"""


@pytest.fixture
def nvidia_smi(tmp_path: Path) -> str:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/bash\n{LINES}")
    program.chmod(0o755)
    return str(program)


def test_only_the_samples_of_this_gpu_and_of_this_time_count(nvidia_smi: str) -> None:
    with ClockSampler(nvidia_smi) as sampler:
        began = time.time()
        # PyTorch names a GPU without the prefix
        wait_for(lambda: bool(sampler.during(began, time.time(), gpus=[ONE.removeprefix("GPU-")])))
        (clocks,) = sampler.during(began, time.time(), gpus=[ONE.removeprefix("GPU-")])
        assert (clocks.sm_mhz_median, clocks.power_w_mean, clocks.temperature_c_most) == (1530, 698.5, 61)
        assert clocks.used_gib_most == pytest.approx(52000 / 1024)
        both = sampler.during(began, time.time(), gpus=[ONE, OTHER])
        assert [clocks.sm_mhz_least for clocks in both] == [1530, 1980]
        assert sampler.during(began - 100, began - 1, gpus=[ONE]) == ()
        assert sampler.during(began, time.time(), gpus=["GPU-of-another-machine"]) == ()


def test_the_program_ends_with_the_sampler(nvidia_smi: str) -> None:
    before = children()
    with ClockSampler(nvidia_smi) as sampler:
        (process,) = children() - before
        wait_for(lambda: bool(sampler.during(0, time.time(), gpus=[ONE])))
    assert not process.is_running()


def test_without_the_program_there_are_no_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    before = children()
    with ClockSampler() as sampler:
        assert sampler.during(0, time.time(), gpus=[ONE]) == ()
        assert children() <= before


@pytest.mark.parametrize("line", ["", "2026/11/22 19:30:00.123, GPU-1, 1530", "no date, GPU-1, 1, 2, 3, 4"])
def test_a_line_of_another_form_is_refused(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whichever field it is
        parse(line)


def children() -> set[psutil.Process]:
    """Of the test process, which may have servers for other tests."""
    return set(psutil.Process().children())
