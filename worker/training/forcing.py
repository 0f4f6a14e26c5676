"""The DiT learns to make the next block: first after true blocks, then after its own.

Knows flow matching and the steps of inference. In teacher forcing every block of a clip is noisy at a level of its own
and sees the true block before it. In self-forcing the network first makes the clip by itself, without gradients, in
the steps of inference; then it is shown its own noisy latents after its own blocks, and held to the true clip. So it
learns what to do about its own mistakes, and to say in two steps what it can say.

Shapes: B clips, n blocks, f latent frames of a block, c latent channels, h x w latent cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from worker.pipeline.config import PIXELS_PER_LATENT
from worker.pipeline.dit.dit import DiT
from worker.pipeline.schedule import SHIFT, TRAINING_STEPS, denoising_steps
from worker.pipeline.text_encoder import TextEmbedding
from worker.training.batched_dit import BatchedDiT, Keys, Scene
from worker.training.phase_run import Losses
from worker.training.plan import Plan
from worker.training.pool import Pool
from worker.training.rollout import roll_out
from worker.training.seeing import autocast, mouth_weight

STEPS = denoising_steps(2)
_AT_STEPS = 0.5
"""Share of blocks at the noise levels of inference; the others are anywhere between."""
_BLUR = 0.08
"""Most noise that is put on true blocks which others see, whose successors are never perfect."""
_LATER_BLOCKS = 400
"""Blocks that a clip may be moved on in time, so that the hundredth block is nothing new."""


@dataclass(frozen=True)
class _Batch:
    """Some blocks in a row of some clips. `past` is the block before them, None at the beginning of a video."""

    clean: Tensor
    past: Tensor | None
    scene: Scene
    past_scene: Scene | None
    network: BatchedDiT
    weight: Tensor


class Forcing:
    """Draws batches from the pools; what both ways of forcing have in common. Batch n is the same for a seed."""

    def __init__(
        self, dit: DiT, pools: Sequence[Pool], prompts: Sequence[TextEmbedding], plan: Plan, *, batch: int, seed: int
    ) -> None:
        self._dit = dit
        self._pools = pools
        self._prompts = prompts
        self._batch = batch
        self._seed = seed
        self._blocks = plan.forced_blocks
        self.device = pools[0].latents.device
        self._networks = [
            BatchedDiT(dit, height=pool.latents.shape[-2], width=pool.latents.shape[-1]) for pool in pools
        ]
        self._weights = [self._latent_weight(pool) for pool in pools]

    def batch(self, step: int) -> tuple[_Batch, torch.Generator]:
        """Each with its own beginning, sound and faces."""
        chosen = np.random.default_rng((self._seed, 7, step))
        which = step % len(self._pools)
        pool, network = self._pools[which], self._networks[which]
        clips, blocks = pool.latents.shape[:2]
        own = torch.from_numpy(chosen.integers(clips, size=self._batch)).to(self.device)
        first = 0 if chosen.random() < 0.25 else int(chosen.integers(blocks - self._blocks + 1))
        later = int(chosen.integers(_LATER_BLOCKS)) if first and chosen.random() < 0.5 else 0
        taken = slice(first, first + self._blocks)
        prompt = self._prompts[int(chosen.integers(len(self._prompts)))]
        text = self._dit.read_text(prompt.rows, prompt_rows=prompt.length)
        reference = network.read_reference(pool.references[own].float(), text=text)

        def scene(places: slice) -> Scene:
            windows = pool.windows[own, places].float().flatten(0, 1)
            frames = pool.latents.shape[3]
            return Scene(places.start + later, frames, network.read_audio(windows), text, reference)

        before = slice(first - 1, first)
        made = _Batch(
            clean=pool.latents[own, taken].float(),
            past=pool.latents[own, before].float() if first else None,
            scene=scene(taken),
            past_scene=scene(before) if first else None,
            network=network,
            weight=self._weights[which],
        )
        return made, torch.Generator(self.device).manual_seed(int(chosen.integers(2**62)))

    def normal(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Noise on the device."""
        return torch.randn(tuple(shape), generator=generator, device=self.device)

    def uniform(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """0 to 1, on the device."""
        return torch.rand(tuple(shape), generator=generator, device=self.device)

    def blurred(self, latents: Tensor, generator: torch.Generator) -> Tensor:
        """With a little noise, as much for each block as chance has it."""
        level = _BLUR * self.uniform((*latents.shape[:2], 1, 1, 1, 1), generator)
        return (1 - level) * latents + level * self.normal(latents.shape, generator)

    def past_keys(self, batch: _Batch, generator: torch.Generator) -> Keys | None:
        """Keys of the block before the batch, which has itself only the reference frame before it."""
        if batch.past is None or batch.past_scene is None:
            return None
        return batch.network.context(self.blurred(batch.past, generator), batch.past_scene)

    def _latent_weight(self, pool: Pool) -> Tensor:
        pixels = mouth_weight(pool.frame, device=self.device)
        return avg_pool2d(pixels[None, None], PIXELS_PER_LATENT)[0, 0]


class TeacherForcing:
    """Losses of the first way."""

    def __init__(self, forcing: Forcing) -> None:
        self._forcing = forcing

    def __call__(self, step: int) -> Losses:
        forcing = self._forcing
        with autocast(forcing.device):
            batch, generator = forcing.batch(step)
            sigma_Bn = self._sigmas(batch.clean.shape[:2], generator)
            each = sigma_Bn[..., None, None, None, None]
            noise = forcing.normal(batch.clean.shape, generator)
            noisy = (1 - each) * batch.clean + each * noise
            past = forcing.past_keys(batch, generator)
            seen = forcing.blurred(batch.clean, generator)
            finished = batch.network.context(seen, batch.scene, past=past)
            flow = batch.network.flow(noisy, sigma_Bn * TRAINING_STEPS, batch.scene, before=finished.later(past))
        error = (flow.float() - (noise - batch.clean)).square()
        loss = (error * batch.weight).mean() / batch.weight.mean()
        return Losses(loss, {"flow": error.mean(), "weighted": loss})

    def _sigmas(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        u = self._forcing.uniform(shape, generator)
        anywhere = SHIFT * u / (1 + (SHIFT - 1) * u)
        which = self._forcing.uniform(shape, generator)
        levels = anywhere.new_tensor([step.sigma for step in STEPS])
        at_steps = levels[(which * len(STEPS)).long()]
        return torch.where(self._forcing.uniform(shape, generator) < _AT_STEPS, at_steps, anywhere)


class SelfForcing:
    """Losses of the second way."""

    def __init__(self, forcing: Forcing) -> None:
        self._forcing = forcing

    def __call__(self, step: int) -> Losses:
        forcing = self._forcing
        with autocast(forcing.device):
            batch, generator = forcing.batch(step)
            past = forcing.past_keys(batch, generator)
            noise = forcing.normal((len(STEPS), *batch.clean.shape), generator)
            own = roll_out(batch.network, batch.scene, noise=noise, steps=STEPS, before=past)
            which_Bn = (forcing.uniform(batch.clean.shape[:2], generator) * len(STEPS)).long()
            each = which_Bn[None, ..., None, None, None, None]
            noisy = own.noisy.gather(0, each.expand(1, *batch.clean.shape))[0]
            sigma_Bn = noisy.new_tensor([step.sigma for step in STEPS])[which_Bn]
            finished = batch.network.context(own.clean, batch.scene, past=past)
            flow = batch.network.flow(noisy, sigma_Bn * TRAINING_STEPS, batch.scene, before=finished.later(past))
        made = noisy - sigma_Bn[..., None, None, None, None] * flow.float()
        error = (made - batch.clean).square()
        loss = (error * batch.weight).mean() / batch.weight.mean()
        drift = (own.clean - batch.clean).square()
        figures = {"clean": error.mean(), "weighted": loss, "own": drift.mean(), "own-last": drift[:, -1].mean()}
        return Losses(loss, figures)
