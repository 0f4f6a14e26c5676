"""What was measured, as numbers, as JSON and as text."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from worker.bench.errors_between import Made, comparison, finite, psnr_db, relative_l2
from worker.bench.figures import (
    SCHEMA,
    Clocks,
    Floor,
    NotMeasured,
    Part,
    Piece,
    Quantiles,
    Report,
    Row,
    Start,
    Versions,
)
from worker.bench.table import text


def test_quantiles_are_those_of_numpy() -> None:
    values = list(np.random.default_rng(0).normal(size=23))
    seen = Quantiles.of(values)
    wanted = np.quantile(values, [0, 0.5, 0.95, 1])
    assert [seen.least, seen.median, seen.p95, seen.most] == pytest.approx(list(wanted))
    assert (seen.count, seen.mean) == (23, pytest.approx(np.mean(values)))


def test_no_values_have_no_quantiles() -> None:
    with pytest.raises(ValueError, match="no values"):
        Quantiles.of([])


def test_the_report_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    report().write(file)
    read = json.loads(file.read_text())
    assert read["schema"] == SCHEMA
    assert read["rows"][0]["floor"]["pieces"][0]["rate"] == 670.5
    assert read["rows"][0]["block_ms"]["median"] == 360.0
    assert read["comparisons"][0]["block_errors"][0] == {"block": 0, "latents": 0.0, "psnr_db": None}


def test_the_text_says_what_was_measured_and_what_was_not() -> None:
    lines = text(report()).splitlines()
    row = next(line for line in lines if "│ DiT" in line)
    for figure in ("bf16", "360.0", "350.0", "1.029", "22.2", "1530", "699", "61", "36.8"):
        assert figure in row
    assert "not measured: dit, fp8-attention: nothing here attends in 8-bit floats" in lines
    assert lines[-1] == (
        "14b on NVIDIA H200: DiT bf16, 2 steps 360.0 ms per block (1.03 × floor); "
        "fp8 against bf16, 1 steps: flow 50.00% off, latents of block 1 100.00%; 1 not measured"
    )


def test_a_machine_without_clocks_has_dashes_for_them() -> None:
    (row,) = report(clocks=()).rows
    assert row.clocks == ()
    line = next(line for line in text(report(clocks=())).splitlines() if "│ DiT" in line)
    assert line.count("–") == 4


def test_a_wrong_block_is_seen_in_its_place() -> None:
    reference = made("bf16", latents=[torch.ones(4), torch.ones(4)], flow=torch.ones(4))
    wrong = made("fp8", latents=[torch.ones(4), torch.tensor([1.0, 1, 1, 2])], flow=torch.ones(4))
    seen = comparison(wrong, reference, timesteps=[1000.0])
    assert [error.latents for error in seen.block_errors] == [0.0, 0.5]
    assert [error.psnr_db for error in seen.block_errors] == [float("inf"), None]
    assert [(error.timestep, error.flow) for error in seen.step_errors] == [(1000.0, 0.0)]


def test_errors_have_the_scale_of_what_they_are_held_against() -> None:
    assert relative_l2(torch.tensor([1.1, 0.0]), torch.tensor([1.0, 0.0])) == pytest.approx(0.1)
    assert relative_l2(torch.tensor([11.0]), torch.tensor([10.0])) == pytest.approx(0.1)
    grey = np.full((1, 2, 2, 3), 100, np.uint8)
    assert psnr_db(grey + 20, grey) == pytest.approx(20 * np.log10(255 / 20))
    assert psnr_db(grey, grey + 20) == pytest.approx(20 * np.log10(255 / 20))  # 8 bits do not run over


def test_numbers_that_are_not_finite_are_no_result() -> None:
    with pytest.raises(ArithmeticError):
        finite(torch.tensor([1.0, float("nan")]))
    with pytest.raises(ArithmeticError):
        relative_l2(torch.ones(2), torch.zeros(2))


def made(way: str, *, latents: list[torch.Tensor], flow: torch.Tensor) -> Made:
    grey = np.full((1, 2, 2, 3), 100, np.uint8)
    return Made(way=way, flows=(flow,), latents=tuple(latents), frames={0: grey})


def report(clocks: tuple[Clocks, ...] | None = None) -> Report:
    one = Clocks("GPU-1", 40, 1530.0, 1500.0, 698.6, 61.0, 40.0)
    piece = Piece("qkv", "2400 × 5120 → 15360", "bfloat16", 120, 568.0, 670.5, 68.2)
    row = Row(
        what=Part.DIT,
        preset="14b",
        precision="bf16",
        memory="ample",
        steps=2,
        ranks=1,
        replica=0,
        replicas=1,
        gpus=1,
        height=640,
        width=480,
        block_ms=Quantiles(24, 360.5, 359.0, 360.0, 361.0, 362.0),
        slowest_before_ms=365.0,
        writing_ms=None,
        frames_per_second=22.2,
        network_tflop=218.0,
        floor=Floor(350.0, (piece,)),
        peak_gib=(36.8,),
        clocks=(one,) if clocks is None else clocks,
        start=Start(6.0, 12.0, 2.0, 1.0, 20.0, 21.0, 0.8),
    )
    reference = made("bf16", latents=[torch.ones(1), torch.ones(1)], flow=torch.ones(1))
    other = made("fp8", latents=[torch.ones(1), torch.zeros(1)], flow=torch.full((1,), 1.5))
    return Report(
        schema=SCHEMA,
        made_at="2026-11-22T20:00:00+00:00",
        plan={"preset": "14b", "weights": None, "json": Path("x.json")},
        weights="drawn from a seed",
        versions=Versions("3.12.3", "2.11.0", "13.0", 91900, "3.6.0", "580", "NVIDIA H200", ("bfloat16 cuDNN",)),
        rows=(row,),
        comparisons=(comparison(other, reference, timesteps=[1000.0]),),
        not_measured=(NotMeasured("dit", "fp8-attention", "nothing here attends in 8-bit floats"),),
    )
