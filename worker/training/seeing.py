"""The VAE learns to keep drawn faces: what it decodes is what it was given.

Knows the autoencoder and clips that are drawn as they are needed. Afterwards its latents are brought to mean 0 and
variance 1 under the constants of the released VAE, by its own first and last 1 x 1 convolutions, so that the pipeline
treats both alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from worker.pipeline.config import VAEConfig
from worker.training.acting import Acted
from worker.training.drawing import draw
from worker.training.faces import MOUTH_BOX, Frame, face
from worker.training.phase_run import Losses
from worker.training.plan import Plan

_KL = 1e-6
_EDGES = 1.0
_FIRST_CERTAINTY = 6.0
"""By how much the log variance of the posterior begins below 0: noise of variance 1 drowns what is to be learned."""
_MOUTH = 3.0
"""How much more the pixels of the mouth count: they are few, and they are what this is about."""
_WHOLE_EVERY = 4
"""One batch in so many shows whole pictures, fewer of them."""


def new_autoencoder(config: VAEConfig) -> AutoencoderKLWan:
    """With weights drawn by torch's generator; otherwise as `VideoAutoencoder` builds it."""
    network: AutoencoderKLWan = AutoencoderKLWan(
        base_dim=config.base_dim,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temporal_downsample),
    )
    with torch.no_grad():
        cast(Tensor, network.quant_conv.bias)[config.z_dim :] -= _FIRST_CERTAINTY
    return network


class SeeingLosses:
    """One batch after the other; batch n is the same in every run of the same seed."""

    def __init__(
        self,
        network: AutoencoderKLWan,
        acted: Sequence[Acted],
        plan: Plan,
        *,
        batch: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self._network = network
        self._acted = [clip for clip in acted if len(clip.track) >= plan.seeing_frames]
        self._plan = plan
        self._batch = batch
        self._seed = seed
        self._device = device

    def __call__(self, step: int) -> Losses:
        generator = np.random.default_rng((self._seed, 4, step))
        frame = self._plan.frames[step % len(self._plan.frames)]
        pixels_B3THW, weight = self._clips(generator, frame, whole=step // len(self._plan.frames) % _WHOLE_EVERY == 0)
        drawn = torch.Generator(self._device).manual_seed(int(generator.integers(2**62)))
        with autocast(self._device):
            posterior = self._network.encode(pixels_B3THW).latent_dist
            made = self._network.decode(posterior.sample(drawn)).sample.float()
        error = (made - pixels_B3THW).abs()
        level = (error * weight).mean() / weight.mean()
        edges = _edges(made, pixels_B3THW, weight)
        spread = posterior.mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float()
        kl = 0.5 * spread.mean()
        return Losses(level + _EDGES * edges + _KL * kl, {"level": error.mean(), "edges": edges, "kl": kl})

    def _clips(self, generator: np.random.Generator, frame: Frame, *, whole: bool) -> tuple[Tensor, Tensor]:
        """[B, 3, T, h, w] in -1 to 1, and how much each pixel counts, [h, w]."""
        count = max(1, self._batch // 4) if whole else self._batch
        people = [face(int(seed)) for seed in generator.integers(2**31, size=count)]
        length = self._plan.seeing_frames
        tracks, lids = np.zeros((count, length, 4), np.float32), np.zeros((count, length), np.float32)
        for place in range(count):
            clip = self._acted[generator.integers(len(self._acted))]
            first = generator.integers(len(clip.track) - length + 1)
            tracks[place], lids[place] = clip.track[first : first + length], clip.lids[first : first + length]
        drawn = draw(
            people,
            frame,
            tracks_BTK=torch.from_numpy(tracks).to(self._device),
            lids_BT=torch.from_numpy(lids).to(self._device),
        )
        pixels, weight = drawn.transpose(1, 2) * 2 - 1, mouth_weight(frame, device=self._device)
        if whole:
            return pixels, weight
        side = self._plan.seeing_crop
        top, left = (int(generator.integers(0, size - side + 1)) for size in (frame.height, frame.width))
        return pixels[..., top : top + side, left : left + side], weight[top : top + side, left : left + side]


def mouth_weight(frame: Frame, *, device: torch.device) -> Tensor:
    """[H, W]: more where a mouth can be."""
    weight = torch.ones(frame.height, frame.width, device=device)
    left, top, right, bottom = frame.box(MOUTH_BOX)
    weight[top:bottom, left:right] = _MOUTH
    return weight


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 products on a GPU; a processor computes as it is."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def _edges(made: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Differences between neighbours, so that outlines stay sharp."""
    across = ((made.diff(dim=-1) - wanted.diff(dim=-1)).abs() * weight[:, 1:]).mean()
    down = ((made.diff(dim=-2) - wanted.diff(dim=-2)).abs() * weight[1:]).mean()
    return (across + down) / weight.mean()


@torch.no_grad()
def standardise(network: AutoencoderKLWan, config: VAEConfig, *, mean_c: Tensor, std_c: Tensor) -> None:
    """Latents of this mean and deviation get those that the config names; what is decoded stays the same."""
    device = network.quant_conv.weight.device
    wanted_mean, wanted_std = (
        torch.tensor(values, device=device, dtype=torch.float32) for values in (config.latents_mean, config.latents_std)
    )
    mean_c, std_c = mean_c.to(wanted_mean), std_c.to(wanted_std).clamp_min(1e-4)
    scale = wanted_std / std_c
    z = config.z_dim
    into, out_of = network.quant_conv, network.post_quant_conv
    into_bias, out_of_bias = cast(Tensor, into.bias), cast(Tensor, out_of.bias)
    out_of_bias += (out_of.weight.flatten(1) * (mean_c - wanted_mean / scale)).sum(1)
    out_of.weight /= scale[None, :, None, None, None]
    into.weight[:z] *= scale[:, None, None, None, None]
    into_bias[:z] = (into_bias[:z] - mean_c) * scale + wanted_mean
    into_bias[z:] += 2 * scale.log()  # the variance of the posterior, which is kept as its logarithm


@torch.no_grad()
def latent_statistics(network: AutoencoderKLWan, losses: SeeingLosses, *, batches: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every latent channel over so many batches of whole pictures."""
    seen = []
    for number in range(batches):
        generator = np.random.default_rng((losses._seed, 5, number))
        frame = losses._plan.frames[number % len(losses._plan.frames)]
        pixels, _ = losses._clips(generator, frame, whole=True)
        seen.append(network.encode(pixels).latent_dist.mode().float().movedim(1, 0).flatten(1))
    every = torch.cat(seen, dim=1)
    return every.mean(1), every.std(1)
