"""Noise as a function of seed, block, step and place: the same on any number of ranks and on any device.

Knows a counter-based generator only. Each number is a pure function of (seed, block, step, place in the latents of the
whole picture), so every rank makes the whole tensor and keeps its strip; a render resumed at block b draws what the
uninterrupted one would have drawn; and the number of GPUs does not change the picture, as it does in the reference
(specification, quirk 13).

The words are those of Philox 4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) under the key
(seed, 0) and counters that start at (0, 0, step, block). Words 2i and 2i + 1 make the normal numbers 2i and 2i + 1 by
the transform of Box and Muller in float64, rounded to float32 at the end. Nothing depends on numpy's own distributions,
which may change between releases.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from worker.pipeline.errors import InvalidRender

SEEDS = range(2**63)


def check_seed(seed: int) -> None:
    """Raises `InvalidRender` for a seed that is not in 0 .. 2^63 - 1."""
    if seed not in SEEDS:
        raise InvalidRender(f"seed is {seed}, must be from 0 to {SEEDS[-1]}")


def block_noise(seed: int, *, block: int, step: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise of `shape` (that of the whole picture's latents), float32 on the CPU.

    `step` 0 is the initial noise of the block, step i > 0 the noise added before forward i.
    """
    count = math.prod(shape)
    generator = np.random.Philox(
        key=np.array([seed, 0], dtype=np.uint64), counter=np.array([0, 0, step, block], dtype=np.uint64)
    )
    words = generator.random_raw(count + count % 2).reshape(-1, 2)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log(uniform[:, 0]))
    angle = 2.0 * np.pi * uniform[:, 1]
    normal = np.stack((radius * np.cos(angle), radius * np.sin(angle)), axis=1).reshape(-1)[:count]
    return torch.from_numpy(normal.astype(np.float32)).reshape(shape)
