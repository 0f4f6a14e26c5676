"""Sigmas, timesteps, the steps of a block, noise levels and time sinusoids against `scheduler.*`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.parity.golden import (
    FLOAT32_RELATIVE,
    Difference,
    Result,
    difference,
    load_facts,
    load_tensors,
    result,
    with_prefix,
)
from worker.pipeline.dit.dit import time_sinusoid
from worker.pipeline.schedule import renoise, sigma_table, timestep_table, warp


def check(directory: Path, dtype: torch.dtype) -> Result:
    facts = load_facts(directory, "scheduler")
    tensors = load_tensors(directory, "scheduler")
    sigmas, timesteps = torch.from_numpy(sigma_table()), torch.from_numpy(timestep_table())
    differences: list[Difference] = [
        difference("sigmas", sigmas, tensors["sigmas"]),
        difference("timesteps", timesteps, tensors["timesteps"]),
    ]
    for listed, golden in facts["lists"].items():
        warped = warp(tuple(int(step) for step in listed.strip("[]").split(",")))
        over_1000 = [float(np.float32(t) / np.float32(1000)) for t in warped]
        for what, ours, theirs in (
            ("timesteps", warped, golden["timesteps"]),
            ("t / 1000", over_1000, golden["t_over_1000"]),
            ("sigma", over_1000, golden["sigma_looked_up"]),
        ):
            ours_64, theirs_64 = (torch.tensor(x, dtype=torch.float64) for x in (ours, theirs))
            differences.append(difference(f"{what} of {listed}", ours_64, theirs_64))
    clean, noise = tensors["in.x0"].to(dtype), tensors["in.noise"].to(dtype)
    for name, golden in with_prefix(tensors, "out.add_noise.t").items():
        sigma = float(sigmas[(timesteps - float(name)).abs().argmin()])
        differences.append(difference(f"noise at {name}", renoise(clean, noise, sigma=sigma), golden))
    for name, golden in with_prefix(tensors, "sinusoid.dim").items():
        rows = [time_sinusoid(t, int(name), device=clean.device) for t in facts["sinusoid_timesteps"]]
        differences.append(difference(f"sinusoid of {name}", torch.stack(rows), golden))
    return result("scheduler", differences, limit=FLOAT32_RELATIVE)
