"""The DiT learns to make the next block: first after true blocks, then after its own.

Knows flow matching and the steps of inference. In teacher forcing every block of a clip is noisy at a level of its own
and sees the true block before it. In self-forcing the network first makes the clip by itself, without gradients, in
the steps of inference; then it is shown its own noisy latents after its own blocks, and held to the true clip. So it
learns what to do about its own mistakes, and to say in two steps what it can say.

An example is n blocks in a row and the true block before them, which is not there at the beginning of a video.

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
from worker.pipeline.dit.rope import Turn
from worker.pipeline.schedule import SHIFT, TRAINING_STEPS, denoising_steps
from worker.pipeline.text_encoder import TextEmbedding
from worker.training.batched_dit import BatchedDiT, Scene, Turns
from worker.training.gradients import Examples, Losses
from worker.training.plan import Plan
from worker.training.pool import Pool
from worker.training.rollout import roll_out
from worker.training.seeing import autocast, mouth_weight

STEPS = denoising_steps(2)
_AT_STEPS = 0.5
"""Share of blocks at the noise levels of inference; the others are anywhere between."""
_PURE_NOISE = 0.999
"""The noise level above which nothing of a block is left."""
_BLUR = 0.08
"""Most noise that is put on true blocks which others see, whose successors are never perfect."""
_LATER_BLOCKS = 400
"""Blocks that a clip may be moved on in time, so that the hundredth block is nothing new."""
_MOUTH = 12.0
"""How much more a mouth counts. With 3 times, networks kept for long to what little loudness alone tells of it."""
_BEGINNINGS = 0.25
"""Share of examples that begin with their video."""


@dataclass(frozen=True)
class _Clips:
    """One size of picture: what is drawn from, and what computes with it."""

    pool: Pool
    network: BatchedDiT
    weight_hw: Tensor
    mouth_hw: Tensor
    """1 where a mouth can be, 0 elsewhere."""
    turns: Turns
    """From block -1 on."""


class Forcing:
    """Draws examples from the pools; what both ways of forcing have in common."""

    def __init__(
        self, dit: DiT, pools: Sequence[Pool], prompts: Sequence[TextEmbedding], plan: Plan, *, batch: int, seed: int
    ) -> None:
        self.dit = dit
        self.device = pools[0].latents.device
        self._prompts_NTC = torch.stack([prompt.rows for prompt in prompts])
        self._batch = batch
        self._seed = seed
        self._blocks = plan.forced_blocks
        self._clips = [self._clips_of(pool, plan) for pool in pools]
        self._levels = torch.tensor([step.sigma for step in STEPS], device=self.device)

    def examples(self, step: int) -> tuple[dict[str, Tensor], int, torch.Generator]:
        """Each with its own beginning, sound and faces. Also which pool they are of, and chance for more."""
        chosen = np.random.default_rng((self._seed, 7, step))
        which = step % len(self._clips)
        pool, turns = self._clips[which].pool, self._clips[which].turns
        clips, blocks = pool.latents.shape[:2]
        own = torch.from_numpy(chosen.integers(clips, size=self._batch)).to(self.device)
        first = 0 if chosen.random() < _BEGINNINGS else int(chosen.integers(blocks - self._blocks + 1))
        later = int(chosen.integers(_LATER_BLOCKS)) if first and chosen.random() < 0.5 else 0
        taken = slice(max(0, first - 1), first + self._blocks)
        latents, windows = (self._with_past(x[:, taken][own].float()) for x in (pool.latents, pool.windows))
        placed = turns.part(slice(first + later, first + later + self._blocks + 1))
        generator = torch.Generator(self.device).manual_seed(int(chosen.integers(2**62)))
        return (
            {
                "latents": latents,
                "windows": windows,
                "there": torch.tensor([float(first > 0)] + [1.0] * self._blocks).to(self.device),
                "reference": pool.references[own].float(),
                "prompt": self._prompts_NTC[int(chosen.integers(len(self._prompts_NTC)))],
                "cos": placed.tokens.cos,
                "sin": placed.tokens.sin,
                "sink_cos": placed.sink.cos,
                "sink_sin": placed.sink.sin,
                "blur": _BLUR * self.uniform(latents.shape[:2], generator)[..., None, None, None, None],
                "blur_noise": self.normal(latents.shape, generator),
            },
            which,
            generator,
        )

    def network(self, which: int) -> BatchedDiT:
        """That of a pool."""
        return self._clips[which].network

    def scene(self, which: int, given: Examples) -> Scene:
        """Of the true block before the others and of them."""
        network, tensors = self._clips[which].network, given.tensors
        prompt_TC = tensors["prompt"]
        text = self.dit.read_text(prompt_TC, prompt_rows=len(prompt_TC))
        return Scene(
            turns=Turns(Turn(tensors["cos"], tensors["sin"]), Turn(tensors["sink_cos"], tensors["sink_sin"])),
            frames=tensors["latents"].shape[3],
            audio=network.read_audio(tensors["windows"].flatten(0, 1)),
            text=text,
            reference=network.read_reference(tensors["reference"], text=text),
        )

    def blurred(self, given: Examples) -> Tensor:
        """The true blocks with a little noise, as much for each as chance has it."""
        level = given.tensors["blur"]
        return (1 - level) * given.tensors["latents"] + level * given.tensors["blur_noise"]

    def weighted(self, which: int, error: Tensor) -> Tensor:
        """The mean, in which a mouth counts more."""
        weight_hw = self._clips[which].weight_hw
        return (error * weight_hw).mean() / weight_hw.mean()

    def follows(self, which: int, made: Tensor, clean: Tensor, *, share_Bn: Tensor) -> Tensor:
        """How well the mouths that were made move as the true ones: the correlation of what differs from the true
        clips' means, over the blocks of which `share` is 1."""
        mean = clean.mean(dim=(1, 3), keepdim=True)
        counted = self._clips[which].mouth_hw * share_Bn[..., None, None, None, None]
        own, true = (made - mean) * counted, (clean - mean) * counted
        return (own * true).sum() / (own.square().sum() * true.square().sum()).sqrt().clamp_min(1e-6)

    def sigmas_of(self, steps_Bn: Tensor) -> Tensor:
        """Noise levels of steps of inference."""
        return self._levels[steps_Bn]

    def normal(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Noise on the device."""
        return torch.randn(tuple(shape), generator=generator, device=self.device)

    def uniform(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """0 to 1, on the device."""
        return torch.rand(tuple(shape), generator=generator, device=self.device)

    def _with_past(self, x_Bn: Tensor) -> Tensor:
        """With something in the place of the block before, where there is none."""
        return x_Bn if x_Bn.shape[1] > self._blocks else torch.cat((x_Bn[:, :1], x_Bn), dim=1)

    def _clips_of(self, pool: Pool, plan: Plan) -> _Clips:
        height, width = pool.latents.shape[-2:]
        network = BatchedDiT(self.dit, height=height, width=width)
        pixels = mouth_weight(pool.frame, times=_MOUTH, device=self.device)
        weight_hw = avg_pool2d(pixels[None, None], PIXELS_PER_LATENT)[0, 0]
        return _Clips(
            pool=pool,
            network=network,
            weight_hw=weight_hw,
            mouth_hw=(weight_hw > 1).float(),
            turns=network.turns(-1, plan.pool_blocks + _LATER_BLOCKS + 1),
        )


class TeacherForcing:
    """The first way, as a `Lesson`."""

    def __init__(self, forcing: Forcing) -> None:
        self._forcing = forcing

    def examples(self, step: int) -> Examples:
        """As `Lesson.examples`."""
        tensors, which, generator = self._forcing.examples(step)
        blocks = tensors["latents"][:, 1:].shape
        tensors["sigma"] = self._sigmas(blocks[:2], generator)
        tensors["noise"] = self._forcing.normal(blocks, generator)
        return Examples(which, tensors)

    def losses(self, examples: Examples) -> Losses:
        """As `Lesson.losses`."""
        forcing, which, tensors = self._forcing, examples.key, examples.tensors
        clean, noise, sigma_Bn = tensors["latents"][:, 1:], tensors["noise"], tensors["sigma"]
        each = sigma_Bn[..., None, None, None, None]
        network = forcing.network(which)
        with autocast(forcing.device):
            scene = forcing.scene(which, examples)
            finished = network.context(forcing.blurred(examples), scene, there_n=tensors["there"])
            own = scene.of_blocks(slice(1, None), clips=len(clean))
            noisy = (1 - each) * clean + each * noise
            flow = network.flow(noisy, sigma_Bn * TRAINING_STEPS, own, before=finished.but_last())
        error = (flow.float() - (noise - clean)).square()
        loss = forcing.weighted(which, error)
        # from noise alone, it is the sound that a mouth can be told by
        made, from_noise = noisy - each * flow.float(), (sigma_Bn > _PURE_NOISE).float()
        follows = forcing.follows(which, made, clean, share_Bn=from_noise)
        return Losses(loss, {"flow": error.mean(), "weighted": loss, "follows": follows})

    def _sigmas(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        forcing = self._forcing
        u = forcing.uniform(shape, generator)
        anywhere = SHIFT * u / (1 + (SHIFT - 1) * u)
        at_steps = forcing.sigmas_of((forcing.uniform(shape, generator) * len(STEPS)).long())
        return torch.where(forcing.uniform(shape, generator) < _AT_STEPS, at_steps, anywhere)


class SelfForcing:
    """The second way, as a `Lesson`."""

    def __init__(self, forcing: Forcing) -> None:
        self._forcing = forcing

    def examples(self, step: int) -> Examples:
        """As `Lesson.examples`."""
        tensors, which, generator = self._forcing.examples(step)
        blocks = tensors["latents"][:, 1:].shape
        tensors["noise"] = self._forcing.normal((len(STEPS), *blocks), generator)
        tensors["step"] = (self._forcing.uniform(blocks[:2], generator) * len(STEPS)).long()
        return Examples(which, tensors)

    def losses(self, examples: Examples) -> Losses:
        """As `Lesson.losses`."""
        forcing, which, tensors = self._forcing, examples.key, examples.tensors
        clean, steps_Bn = tensors["latents"][:, 1:], tensors["step"]
        network, past = forcing.network(which), slice(0, 1)
        with autocast(forcing.device):
            # with gradients first: a weight that autocast has cast without them has none in this step
            scene = forcing.scene(which, examples)
            own = scene.of_blocks(slice(1, None), clips=len(clean))
            blurred = forcing.blurred(examples)[:, past]
            with torch.no_grad():
                alone = scene.of_blocks(past, clips=len(clean))
                before = network.context(blurred, alone, there_n=tensors["there"][past])
                made = roll_out(network, own, noise=tensors["noise"], steps=STEPS, before=before)
            finished = network.context(torch.cat((blurred, made.clean), dim=1), scene, there_n=tensors["there"])
            each = steps_Bn[None, ..., None, None, None, None].expand(1, *clean.shape)
            noisy = made.noisy.gather(0, each)[0]
            sigma_Bn = forcing.sigmas_of(steps_Bn)
            flow = network.flow(noisy, sigma_Bn * TRAINING_STEPS, own, before=finished.but_last())
        error = (noisy - sigma_Bn[..., None, None, None, None] * flow.float() - clean).square()
        loss = forcing.weighted(which, error)
        drift = (made.clean - clean).square()
        follows = forcing.follows(which, made.clean, clean, share_Bn=torch.ones_like(sigma_Bn))
        figures = {
            "clean": error.mean(),
            "weighted": loss,
            "own": drift.mean(),
            "own-last": drift[:, -1].mean(),
            "follows": follows,
        }
        return Losses(loss, figures)
