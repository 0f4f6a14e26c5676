"""One sequence over several ranks makes the same latents as one rank, in real processes over gloo."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.integration.rank_processes import RankProcesses, rank_processes
from worker.pipeline.checkpoint import Network, RandomWeights
from worker.pipeline.config import DiTConfig
from worker.pipeline.denoiser import Denoiser, read_times
from worker.pipeline.dit.audio_net import rows_for
from worker.pipeline.dit.dit import DiT
from worker.pipeline.noise import block_noise
from worker.pipeline.parallel import SequenceParallel, assemble, cut
from worker.pipeline.schedule import denoising_steps

CONFIG = DiTConfig(
    dim=64,
    ffn_dim=128,
    num_heads=4,
    num_layers=3,
    text_dim=24,
    text_len=16,
    audio_dim=16,
    audio_layers=3,
    audio_inject_layers=(0, 2),
    freq_dim=32,
)
BLOCKS = 13
"""The sink turns from the eleventh block on."""

WIDE, TALL = (64, 96), (96, 64)
"""Height and width in pixels: the shorter side is cut, so rows of the first and columns of the second."""

LIMIT = 2.2e-6


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankProcesses]:
    with rank_processes(4) as processes:
        yield processes


@pytest.mark.parametrize("size", [WIDE, TALL], ids=["cut_rows", "cut_columns"])
@pytest.mark.parametrize("parts", [2, 4])
def test_latents_are_those_of_a_single_rank(ranks: RankProcesses, parts: int, size: tuple[int, int]) -> None:
    height, width = size
    alone = make_blocks(SequenceParallel(size=1, group=None), 0, height, width)
    strips = cut(CONFIG, height=height, width=width, parts=parts)
    assert {strip.width == width // 8 for strip in strips} == {height < width}, "the shorter side is cut"
    made = ranks.run(make_blocks_in_group, parts, height, width)[:parts]
    for block in range(BLOCKS):
        together = assemble(strips, [blocks[block] for blocks in made])
        torch.testing.assert_close(together, alone[block], rtol=0, atol=LIMIT)


def make_blocks_in_group(rank: int, size: int, parts: int, height: int, width: int) -> list[Tensor]:
    """The first `parts` ranks of all; the others look on."""
    group = dist.new_group(list(range(parts)), timeout=timedelta(seconds=30))
    if rank >= parts:
        return []
    return make_blocks(SequenceParallel(size=parts, group=group), rank, height, width)


def make_blocks(sequence: SequenceParallel, rank: int, height: int, width: int) -> list[Tensor]:
    """This rank's strips of all blocks, on drawn weights and inputs that are the same everywhere."""
    with torch.device("meta"):
        dit = DiT(CONFIG)
    RandomWeights(7).fill(dit, Network.DIT, device=torch.device("cpu"), dtype=torch.float32)
    strips = cut(CONFIG, height=height, width=width, parts=sequence.size)
    strip = strips[rank]
    steps = denoising_steps(4)
    denoiser = Denoiser(dit, times=read_times(dit, steps), strips=strips, strip=strip, sequence=sequence)
    drawn = torch.Generator().manual_seed(11)
    cells = (height // 8, width // 8)
    reference = torch.randn(CONFIG.in_dim, 1, *cells, generator=drawn)
    prompt = torch.randn(CONFIG.text_len, CONFIG.text_dim, generator=drawn)
    prompt[5:] = 0
    denoiser.start(strip.of(reference), prompt=prompt, prompt_rows=5)
    blocks = []
    for block in range(BLOCKS):
        window = torch.randn(CONFIG.audio_layers, CONFIG.audio_dim, rows_for(2), generator=drawn)
        noise = lambda b, step: strip.of(  # noqa: E731
            block_noise(3, block=b, step=step, shape=(CONFIG.in_dim, 2, *cells))
        )
        blocks.append(denoiser.denoise(block, window=window, noise=noise, steps=steps).clone())
    return blocks
