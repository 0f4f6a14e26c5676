"""Videos as the network itself makes them: block after block, in a few steps, each under what it made before.

Knows the order of inference (`worker/pipeline/denoiser.py`) for many clips at once; no losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.pipeline.schedule import DenoisingStep, renoise
from worker.training.batched_dit import BatchedDiT, Keys, Scene


@dataclass(frozen=True)
class RolledOut:
    """`clean` [B, n, c, f, h, w] is the video; `noisy` [steps, B, n, c, f, h, w] what each step began with."""

    clean: Tensor
    noisy: Tensor


@torch.no_grad()
def roll_out(
    network: BatchedDiT,
    scene: Scene,
    *,
    noise: Tensor,
    steps: Sequence[DenoisingStep],
    before: Keys | None = None,
) -> RolledOut:
    """`noise` is [steps, B, n, c, f, h, w]. `before` are the keys of the block before the first one [B, 1, …]."""
    _, clips, blocks = noise.shape[:3]
    made, began = [], []
    for place in range(blocks):
        alone = scene.of_blocks(slice(place, place + 1), clips=clips)
        here = noise[:, :, place : place + 1]
        latents = here[0]
        starts = []
        seen = before if before is not None else _nothing(network, latents)
        for step in steps:
            starts.append(latents)
            times = latents.new_full(latents.shape[:2], step.timestep)
            clean = step.clean(latents, network.flow(latents, times, alone, before=seen))
            if step.next_sigma is not None:
                latents = renoise(clean, here[step.index + 1], sigma=step.next_sigma)
        before = network.context(clean, alone, past=seen)
        made.append(clean)
        began.append(torch.stack(starts))
    return RolledOut(clean=torch.cat(made, dim=1), noisy=torch.cat(began, dim=2))


def _nothing(network: BatchedDiT, latents: Tensor) -> Keys:
    """Keys of no block at all."""
    config = network.config
    B, n, _, f, h, w = latents.shape
    tokens = f * (h // config.patch[1]) * (w // config.patch[2])
    zeros = latents.new_zeros(B, n, tokens, config.num_heads, config.head_dim)
    return Keys((zeros,) * config.num_layers, (zeros,) * config.num_layers)
