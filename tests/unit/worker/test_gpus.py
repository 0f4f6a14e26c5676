"""What is read from nvidia-smi, and what CUDA_VISIBLE_DEVICES makes of it."""

import stat
from pathlib import Path

import pytest

from worker.gpus import Gpu, visible_gpus

LISTED = """\
NVIDIA H200, GPU-11111111-aaaa, 143771, 9.0
NVIDIA L4, GPU-22222222-bbbb, 23034, 8.9
"""
H200, L4 = ("NVIDIA H200", 143771 * 2**20, (9, 0)), ("NVIDIA L4", 23034 * 2**20, (8, 9))


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `nvidia-smi` of our own, the only program on PATH; what it does can be written to it."""
    program = tmp_path / "nvidia-smi"
    say(program, LISTED.strip())
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


def say(program: Path, answer: str, *, status: int = 0) -> None:
    program.write_text(f"#!/bin/sh\nwhile read line; do echo \"$line\"; done <<'END'\n{answer}\nEND\nexit {status}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_every_gpu_is_listed_with_its_memory_and_capability(driver: Path) -> None:
    assert visible_gpus() == (Gpu(0, *H200), Gpu(1, *L4))


@pytest.mark.parametrize(
    ("asked_for", "seen"),
    [
        ("1", (Gpu(0, *L4),)),
        ("1,0", (Gpu(0, *L4), Gpu(1, *H200))),
        ("GPU-2222", (Gpu(0, *L4),)),
        ("0,7,1", (Gpu(0, *H200),)),
        ("", ()),
        ("-1", ()),
        ("MIG-4f", (Gpu(0, "a part of a GPU", None, None),)),
    ],
)
def test_cuda_visible_devices_chooses_and_counts_anew(driver: Path, asked_for: str, seen: tuple[Gpu, ...]) -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": asked_for}) == seen


def test_what_the_driver_does_not_tell_is_not_known(driver: Path) -> None:
    say(driver, "NVIDIA GB10, GPU-33333333-cccc, [N/A], 12.1")
    assert visible_gpus() == (Gpu(0, "NVIDIA GB10", None, (12, 1)),)


def test_without_a_driver_or_with_a_broken_one_there_are_no_gpus(
    driver: Path, caplog: pytest.LogCaptureFixture
) -> None:
    say(driver, "Failed to initialize NVML: Unknown Error", status=255)
    assert visible_gpus() == ()
    assert "Failed to initialize NVML" in caplog.text
    driver.unlink()
    assert visible_gpus() == ()
