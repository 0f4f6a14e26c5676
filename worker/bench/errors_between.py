"""How far two ways of making the same video are apart. Knows arrays; no network and no device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.bench.figures import BlockError, Comparison, StepError

WHITE = 255.0


@dataclass(frozen=True)
class Made:
    """One video as one way made it. Tensors are on the CPU."""

    way: str
    flows: tuple[Tensor, ...]
    """Of the first block, at each step, from the latents that the reference had there."""
    latents: tuple[Tensor, ...]
    """Of every block."""
    frames: Mapping[int, NDArray[np.uint8]]
    """Of some blocks, by their number."""


def comparison(made: Made, reference: Made, *, timesteps: Sequence[float]) -> Comparison:
    """Of videos with the same steps and the same number of blocks."""
    return Comparison(
        way=made.way,
        reference=reference.way,
        steps=len(timesteps),
        step_errors=tuple(
            StepError(step=step, timestep=timestep, flow=relative_l2(flow, exact))
            for step, (timestep, flow, exact) in enumerate(zip(timesteps, made.flows, reference.flows, strict=True))
        ),
        block_errors=tuple(
            BlockError(
                block=block,
                latents=relative_l2(latents, exact),
                psnr_db=psnr_db(made.frames[block], reference.frames[block]) if block in made.frames else None,
            )
            for block, (latents, exact) in enumerate(zip(made.latents, reference.latents, strict=True))
        ),
    )


def relative_l2(x: Tensor, reference: Tensor) -> float:
    """`||x - reference|| / ||reference||`. Raises ArithmeticError for what is not finite, or a reference of zeros."""
    exact = reference.double()
    error = float((x.double() - exact).norm() / exact.norm())
    if not math.isfinite(error):
        raise ArithmeticError("latents that are not finite, or all zero, cannot be compared")
    return error


def psnr_db(frames: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Peak signal to noise of 8-bit pixels; infinite when they are equal."""
    squares = float(np.square(frames.astype(np.float64) - reference).mean())
    return float("inf") if squares == 0 else float(10 * np.log10(WHITE**2 / squares))


def finite(x: Tensor) -> Tensor:
    """The same, on the CPU in float32. Raises ArithmeticError for numbers that are not finite."""
    there = x.to("cpu", torch.float32)
    if not torch.isfinite(there).all():
        raise ArithmeticError("the DiT made numbers that are not finite")
    return there
