"""A long video in bfloat16 beside the same one in float64: with the exact sink, minute two is as good as second one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from worker.pipeline.checkpoint import Network, RandomWeights
from worker.pipeline.config import DiTConfig
from worker.pipeline.denoiser import Denoiser, read_times, whole_picture
from worker.pipeline.dit.audio_net import rows_for
from worker.pipeline.dit.dit import DiT
from worker.pipeline.dit.kernels import exact_dtype
from worker.pipeline.noise import block_noise
from worker.pipeline.parallel import SequenceParallel
from worker.pipeline.schedule import denoising_steps
from worker.pipeline.sink_rotation import SinkRotation

CONFIG = DiTConfig(
    dim=64, ffn_dim=96, num_heads=1, num_layers=2, text_dim=12, text_len=10, audio_dim=8, audio_layers=3,
    audio_inject_layers=(0,), freq_dim=32,
)  # fmt: skip
SIZE = (4, 6)
BLOCKS = 160
"""80 seconds; the sink has turned 150 times at the end."""


@dataclass(frozen=True)
class Run:
    latents: list[Tensor]
    sink_keys: Tensor


@pytest.fixture(scope="module")
def runs() -> Mapping[str, Run]:
    with torch.inference_mode():
        return {
            "truth": run(torch.float64, SinkRotation.EXACT),
            "exact": run(torch.bfloat16, SinkRotation.EXACT),
            "reference": run(torch.bfloat16, SinkRotation.REFERENCE_ROUNDING),
        }


def test_blocks_get_no_worse_with_the_exact_sink(runs: Mapping[str, Run]) -> None:
    errors = [relative(a, b) for a, b in zip(runs["exact"].latents, runs["truth"].latents, strict=True)]
    first, last = sum(errors[:20]) / 20, sum(errors[-20:]) / 20
    assert 0 < first < 0.02
    assert last < 1.15 * first


def test_the_reference_picture_stays_where_it_is_with_the_exact_sink_only(runs: Mapping[str, Run]) -> None:
    exact, reference = (relative(runs[name].sink_keys, runs["truth"].sink_keys) for name in ("exact", "reference"))
    assert exact < 0.01
    assert reference > 0.03


def run(dtype: torch.dtype, rotation: SinkRotation) -> Run:
    """All from the same weights and inputs, which bfloat16 holds exactly."""
    with torch.device("meta"):
        dit = DiT(CONFIG)
    RandomWeights(4).fill(dit, Network.DIT, device=torch.device("cpu"), dtype=torch.bfloat16)
    dit.to(dtype).casual_audio_encoder.to(exact_dtype(dtype))
    steps, strips = denoising_steps(2), whole_picture(*SIZE)
    denoiser = Denoiser(
        dit,
        times=read_times(dit, steps),
        strips=strips,
        strip=strips[0],
        sequence=SequenceParallel(size=1, group=None),
        rotation=rotation,
    )
    drawn = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=drawn).to(torch.bfloat16).to(dtype)

    def noise(block: int, step: int) -> Tensor:
        return block_noise(2, block=block, step=step, shape=(CONFIG.in_dim, 2, *SIZE)).to(torch.bfloat16).to(dtype)

    prompt = draw(CONFIG.text_len, CONFIG.text_dim)
    prompt[4:] = 0
    denoiser.start(draw(CONFIG.in_dim, 1, *SIZE), prompt=prompt, prompt_rows=4)
    latents = [
        denoiser.denoise(
            block, window=draw(CONFIG.audio_layers, CONFIG.audio_dim, rows_for(2)), noise=noise, steps=steps
        )
        for block in range(BLOCKS)
    ]
    return Run(latents, denoiser.cache.k_NGHK[:, denoiser.cache.reference_slots().read].clone())


def relative(made: Tensor, wanted: Tensor) -> float:
    return float((made.double() - wanted).norm() / wanted.norm())
