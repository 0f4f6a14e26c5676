"""Timesteps, sigmas and the two formulas that use them (specification, sections 7 and 8).

Knows the flow-matching schedule with shift 3 over 1000 training steps; no network and no noise. Sigmas are float32
numbers, as in the reference, whatever the precision of the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from worker.pipeline.dit.kernels import exact_dtype
from worker.pipeline.errors import InvalidRender

TRAINING_STEPS = 1000
SHIFT = 3.0
CLEAN = 0.0
"""The timestep of finished latents: of the reference frame and of the context pass."""

STEP_LISTS: Mapping[int, tuple[int, ...]] = MappingProxyType({4: (1000, 750, 500, 250), 2: (1000, 500)})
"""The steps of the released configurations, by their number, before warping."""


def sigma_table() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """[1000] float32, from 1 downwards without 0: `3u / (1 + 2u)` with u = 1 - k / 1000."""
    u = torch.linspace(1.0, 0.0, TRAINING_STEPS + 1, dtype=torch.float32)[:-1]
    table: np.ndarray[tuple[int], np.dtype[np.float32]] = (SHIFT * u / (1 + (SHIFT - 1) * u)).numpy()
    return table


def timestep_table() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """[1000] float32: `1000 * sigma`."""
    return sigma_table() * np.float32(TRAINING_STEPS)


@dataclass(frozen=True)
class DenoisingStep:
    """One forward of a block: its timestep, t / 1000, and the sigma of the step after it (None at the last)."""

    index: int
    timestep: float
    sigma: float
    next_sigma: float | None

    def clean(self, noisy: Tensor, flow: Tensor) -> Tensor:
        """The clean latents that the flow points to, in at least float32: `x - sigma * flow`."""
        exact = exact_dtype(noisy.dtype)
        return noisy.to(exact) - self.sigma * flow.to(exact)


def renoise(clean: Tensor, noise: Tensor, *, sigma: float) -> Tensor:
    """Clean latents back at the noise level `sigma`: `(1 - sigma) * clean + sigma * noise`."""
    return (1 - sigma) * clean + sigma * noise.to(clean.dtype)


def denoising_steps(count: int) -> tuple[DenoisingStep, ...]:
    """The steps of a block: timesteps 1000, 900, 750, 500 for 4, and 1000, 750 for 2.

    Raises `InvalidRender` for another number: the network was distilled for these.
    """
    if count not in STEP_LISTS:
        known = " or ".join(str(n) for n in sorted(STEP_LISTS))
        raise InvalidRender(f"denoising_steps is {count}, must be {known}")
    timesteps = warp(STEP_LISTS[count])
    sigmas = [float(np.float32(t) / np.float32(TRAINING_STEPS)) for t in timesteps]
    following: list[float | None] = [*sigmas[1:], None]
    return tuple(
        DenoisingStep(index=i, timestep=t, sigma=sigma, next_sigma=next_sigma)
        for i, (t, sigma, next_sigma) in enumerate(zip(timesteps, sigmas, following, strict=True))
    )


def warp(steps: tuple[int, ...]) -> tuple[float, ...]:
    """Listed steps to timesteps: step s becomes entry 1000 - s of the table."""
    table = timestep_table()
    return tuple(float(table[TRAINING_STEPS - step]) for step in steps)
