"""The DiT's fast path computes what the plain one does. Triton's interpreter stands in for the GPU."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined
pytest.importorskip("triton", reason="Triton comes with PyTorch for GPUs")

from tests.unit.pipeline.test_denoiser import PROMPT_ROWS, SIZE, Inputs
from worker.pipeline.checkpoint import Network, RandomWeights
from worker.pipeline.config import DiTConfig
from worker.pipeline.denoiser import Denoiser, read_times, whole_picture
from worker.pipeline.dit.dit import DiT
from worker.pipeline.dit.fast_kernels import FastKernels
from worker.pipeline.dit.kernels import Kernels
from worker.pipeline.dit.self_attend import TorchAttention
from worker.pipeline.parallel import SequenceParallel
from worker.pipeline.schedule import denoising_steps

CONFIG = DiTConfig(
    dim=96,
    ffn_dim=160,
    num_heads=3,
    num_layers=3,
    text_dim=12,
    text_len=10,
    audio_dim=8,
    audio_layers=3,
    audio_inject_layers=(0, 2),
    freq_dim=16,
)
"""Neither channels nor heads are powers of two."""

CPU = torch.device("cpu")


def fast_kernels(row_dtype: torch.dtype = torch.float32, **options: object) -> FastKernels:
    return FastKernels(TorchAttention(), row_dtype=row_dtype, cache_dtype=torch.float32, **options)  # type: ignore[arg-type]


def blocks_of(kernels: Kernels, *, blocks: int, prompt_rows: int = PROMPT_ROWS) -> list[Tensor]:
    with torch.device("meta"):
        dit = DiT(CONFIG, kernels)
    RandomWeights(4).fill(dit, Network.DIT, device=CPU, dtype=torch.float32, place=kernels.place)
    kernels.pack(dit)
    strips, steps = whole_picture(*SIZE), denoising_steps(2)
    denoiser = Denoiser(
        dit,
        times=read_times(dit, steps),
        strips=strips,
        strip=strips[0],
        sequence=SequenceParallel(size=1, group=None),
    )
    inputs = Inputs(torch.float32)
    inputs.prompt = torch.randn(inputs.prompt.shape, generator=torch.Generator().manual_seed(5))
    inputs.prompt[prompt_rows:] = 0
    denoiser.start(inputs.reference, prompt=inputs.prompt, prompt_rows=prompt_rows)
    windows = inputs.windows()
    return [denoiser.denoise(b, window=windows[b], noise=inputs.noise, steps=steps) for b in range(blocks)]


@pytest.mark.parametrize("prompt_rows", [PROMPT_ROWS, CONFIG.text_len], ids=["padded prompt", "full prompt"])
def test_blocks_are_those_of_the_plain_path(prompt_rows: int) -> None:
    plain = blocks_of(Kernels(), blocks=2, prompt_rows=prompt_rows)
    fast = blocks_of(fast_kernels(), blocks=2, prompt_rows=prompt_rows)
    for wanted, made in zip(plain, fast, strict=True):
        torch.testing.assert_close(made, wanted, rtol=0, atol=3e-6)
