"""`realvideo bench` on a processor: the rows that were asked for, and a reason for each that cannot be."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(240)

SMALL = ("--device", "cpu", "--preset", "tiny", "--size", "64x96", "--blocks", "2", "--steps", "2", "--threads", "1")


def test_rows_of_all_parts_are_printed_and_written(tmp_path: Path) -> None:
    answered, report = bench(tmp_path, "--what", "all")
    assert answered.returncode == 0, answered.stderr
    rows = {row["what"]: row for row in report["rows"]}
    assert list(rows) == ["vae", "dit", "render"]
    for row in rows.values():
        assert row["block_ms"]["count"] == 2
        assert row["floor"]["ms"] == pytest.approx(sum(piece["ms"] for piece in row["floor"]["pieces"]))
        assert all(piece["ms"] > 0 for piece in row["floor"]["pieces"])
        assert row["frames_per_second"] == pytest.approx(8000 / row["block_ms"]["mean"])
    names = {part: {piece["name"] for piece in row["floor"]["pieces"]} for part, row in rows.items()}
    assert names["render"] == names["dit"] | names["vae"]
    assert rows["render"]["writing_ms"]["count"] == 2
    assert rows["dit"]["writing_ms"] is None
    start = rows["render"]["start"]
    assert start["load_s"] > 0
    assert start["from_process_start_to_ready_s"] > start["from_process_start_to_first_block_s"] > start["import_s"] > 0
    last = answered.stdout.splitlines()[-1]
    assert last.startswith("tiny on CPU, 1 threads: VAE decode float32 ")
    assert "loading the DiT" in answered.stderr


def test_two_dit_ranks_are_measured_without_the_rank_of_the_encoders(tmp_path: Path) -> None:
    answered, report = bench(tmp_path, "--what", "dit", "--ranks", "3")
    assert answered.returncode == 0, answered.stderr
    (row,) = report["rows"]
    assert (row["ranks"], len(row["peak_gib"])) == (2, 2)


def test_what_this_machine_cannot_do_is_said_beside_what_it_can(tmp_path: Path) -> None:
    answered, report = bench(tmp_path, "--what", "dit", "--precision", "fp8,bf16")
    assert answered.returncode == 1
    assert [row["precision"] for row in report["rows"]] == ["float32"]
    (missing,) = report["not_measured"]
    assert (missing["what"], missing["precision"]) == ("dit", "fp8")
    assert "needs an NVIDIA GPU" in missing["reason"]
    assert "not measured: dit, fp8: precision fp8 needs" in answered.stdout
    assert answered.stderr.splitlines()[-1] == "realvideo: 1 of what was asked for could not be measured."


def test_wrong_options_are_refused_before_anything_starts(tmp_path: Path) -> None:
    answered = command(tmp_path, "--size", "63x96")
    assert answered.returncode == 2
    assert answered.stderr == "realvideo: sides of the size are multiples of 16.\n"


def bench(directory: Path, *options: str) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    answered = command(directory, *SMALL, "--json", "bench.json", *options)
    file = directory / "bench.json"
    assert file.exists(), answered.stderr
    return answered, json.loads(file.read_text())


def command(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "bench", *options],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
