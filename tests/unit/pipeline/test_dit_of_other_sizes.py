"""The DiT of sizes that no stored golden has, against the plain network: nothing may be tuned to one set of numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.parity import dit
from tests.unit.pipeline.plain_golden import Sizes, write_golden
from worker.pipeline.config import DiTConfig

SIZES = {
    # pairs of a head: 4, 2, 2
    "heads of 16, 5 layers": Sizes(
        config=DiTConfig(
            dim=96, ffn_dim=112, num_heads=6, num_layers=5, text_dim=20, text_len=17, audio_dim=24, audio_layers=6,
            audio_inject_layers=(1, 3), freq_dim=32,
        ),
        four_steps=(6, 10), two_steps=(10, 6), blocks=12, segments=(4, 10, 4), clamped=1,
    ),
    # pairs of a head: 4, 4, 4; every layer hears
    "heads of 24, 3 layers": Sizes(
        config=DiTConfig(
            dim=72, ffn_dim=200, num_heads=3, num_layers=3, text_dim=52, text_len=31, audio_dim=16, audio_layers=25,
            audio_inject_layers=(0, 1, 2), freq_dim=256,
        ),
        four_steps=(4, 14), two_steps=(6, 6), blocks=11, segments=(12, 10), clamped=2,
    ),
    # pairs of a head: 12, 10, 10; only the last layer hears
    "heads of 64, 2 layers": Sizes(
        config=DiTConfig(
            dim=64, ffn_dim=96, num_heads=1, num_layers=2, text_dim=8, text_len=40, audio_dim=12, audio_layers=3,
            audio_inject_layers=(1,), freq_dim=48,
        ),
        four_steps=(14, 6), two_steps=(4, 10), blocks=13, segments=(8, 2, 12), clamped=0,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=SIZES)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("golden")
    write_golden(directory, SIZES[request.param], seed=len(request.param))
    return directory


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_blocks_of_any_size_are_those_of_the_plain_network(directory: Path, dtype: torch.dtype) -> None:
    with torch.inference_mode():
        for check in (dit.check_four_steps, dit.check_two_steps):
            result = check(directory, dtype)
            assert result.within, result.line()
            assert result.absolute > 0, "compared with itself"
