"""The VAE learns to keep drawn faces: what it decodes is what it was given.

Knows the autoencoder and a bank of drawn clips. Afterwards its latents are brought to mean 0 and
variance 1 under the constants of the released VAE, by its own first and last 1 x 1 convolutions, so that the pipeline
treats both alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d
from torch import Tensor

from worker.pipeline.config import VAEConfig
from worker.training.acting import Acted
from worker.training.drawing import draw
from worker.training.faces import MOUTH_BOX, Frame, face
from worker.training.gradients import Examples, Losses
from worker.training.plan import Plan, View

_KL = 1e-6
_EDGES = 0.3
_FIRST_CERTAINTY = 6.0
"""By how much the log variance of the posterior begins below 0: noise of variance 1 drowns what is to be learned."""
_INEXACT = 0.15
"""Most by which latents are off when they are decoded, as a share of their deviation: those of a DiT are never exact,
and what is decoded from them is to stand still all the same."""
_GAIN = 3**0.5
"""On torch's first weights, so that a layer gives out what it gets in: colours come through from the beginning."""
_MOUTH = 3.0
"""How much more the pixels of the mouth count: they are few, and they are what this is about."""
_WHOLE_EVERY = 6
"""One batch in so many shows whole pictures."""
_WITH_MOUTH = 0.5
"""Share of the parts that were chosen for the mouth in them."""
_STATISTICS_FRAMES = 17
"""Of each clip, from which the latents' means and deviations are read."""
_AT_ONCE = 32
"""Clips that are drawn together."""


def new_autoencoder(config: VAEConfig) -> AutoencoderKLWan:
    """With weights drawn by torch's generator; otherwise as `VideoAutoencoder` builds it.

    It begins without a memory: the frames of a latent frame are all made from the last of them, wherever in the video
    they are. So what it learned from pictures holds for clips at once, and it learns of time from there.
    """
    network: AutoencoderKLWan = AutoencoderKLWan(
        base_dim=config.base_dim,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temporal_downsample),
    )
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(_GAIN)
        for layer in network.modules():
            if isinstance(layer, WanCausalConv3d):
                _forget(layer)
        cast(Tensor, network.quant_conv.bias)[config.z_dim :] -= _FIRST_CERTAINTY
    return network


def _forget(layer: WanCausalConv3d) -> None:
    """No weight for frames that are past. What only halves or doubles the number of frames begins as their choice."""
    frames, rows, _ = layer.kernel_size
    if frames > 1:
        layer.weight[:, :, :-1] = 0
    if frames > rows:  # time alone: no picture ever passes here
        cast(Tensor, layer.bias).zero_()
        layer.weight[:, :, -1, 0, 0] = torch.eye(layer.in_channels).repeat(layer.out_channels // layer.in_channels, 1)


@dataclass(frozen=True)
class Bank:
    """Drawn clips of one size."""

    frame: Frame
    pixels: Tensor
    """[N, T, 3, H, W] uint8 on the device."""
    weight: Tensor
    """How much each pixel counts, [H, W]."""


def fill_bank(acted: Sequence[Acted], frame: Frame, plan: Plan, *, seed: int, device: torch.device) -> Bank:
    """Everybody in it looks different."""
    generator = np.random.default_rng((seed, 4, frame.width))
    length = plan.seeing_frames
    long_enough = [clip for clip in acted if len(clip.track) >= length]
    drawn = []
    for first in range(0, plan.seeing_clips, _AT_ONCE):
        count = min(_AT_ONCE, plan.seeing_clips - first)
        tracks, lids = np.zeros((count, length, 4), np.float32), np.zeros((count, length), np.float32)
        for place in range(count):
            clip = long_enough[generator.integers(len(long_enough))]
            start = generator.integers(len(clip.track) - length + 1)
            tracks[place], lids[place] = clip.track[start : start + length], clip.lids[start : start + length]
        video = draw(
            [face(int(number)) for number in generator.integers(2**31, size=count)],
            frame,
            tracks_BTK=torch.from_numpy(tracks).to(device),
            lids_BT=torch.from_numpy(lids).to(device),
        )
        drawn.append((video * 255).round().to(torch.uint8))
    return Bank(frame, torch.cat(drawn), mouth_weight(frame, times=_MOUTH, device=device))


class SeeingLesson:
    """Parts of the clips in some banks, short ones and long ones by turns; now and then whole pictures."""

    def __init__(self, network: AutoencoderKLWan, banks: Sequence[Bank], plan: Plan, *, seed: int) -> None:
        self._network = network
        self._banks = banks
        self._plan = plan
        self._seed = seed
        self._device = banks[0].weight.device

    def examples(self, step: int) -> Examples:
        """As `Lesson.examples`."""
        chosen = np.random.default_rng((self._seed, 5, step))
        which = step % len(self._banks)
        bank = self._banks[which]
        clips, frames, _, height, width = bank.pixels.shape
        turn, view = self._view(step // len(self._banks))
        if turn % _WHOLE_EVERY == 0:
            length, count = view.whole
            rows, columns = height, width
            key = -length * len(self._banks) - which
        else:
            length, count = view.parts[turn % len(view.parts)]
            rows = columns = self._plan.seeing_crop
            key = length
        top, left = self._corner(chosen, bank, rows=rows, columns=columns)
        first = int(chosen.integers(0, frames - length + 1))
        own = torch.from_numpy(chosen.integers(clips, size=count)).to(self._device)
        part = np.s_[top : top + rows, left : left + columns]
        pixels = bank.pixels[:, first : first + length, :, *part][own]
        latents = (count, self._plan.config.vae.z_dim, 1 + (length - 1) // 4, rows // 8, columns // 8)
        drawn = torch.Generator(self._device).manual_seed(int(chosen.integers(2**62)))
        off = _INEXACT * torch.rand((count, 1, 1, 1, 1), generator=drawn, device=self._device)
        return Examples(
            key,
            {
                "pixels": pixels.transpose(1, 2).float() / 127.5 - 1,
                "weight": bank.weight[part],
                "off": off,
                "noise": torch.randn(latents, generator=drawn, device=self._device),
            },
        )

    def losses(self, examples: Examples) -> Losses:
        """As `Lesson.losses`."""
        pixels_B3THW, weight = examples.tensors["pixels"], examples.tensors["weight"]
        with autocast(self._device):
            posterior = self._network.encode(pixels_B3THW).latent_dist
            deviation = posterior.mean.detach().float().std((0, 2, 3, 4), keepdim=True)
            spread = posterior.std + examples.tensors["off"] * deviation
            latents = posterior.mean + spread * examples.tensors["noise"]
            made = self._network.decode(latents).sample.float()
        error = (made - pixels_B3THW).abs()
        level = (error * weight).mean() / weight.mean()
        edges = _edges(made, pixels_B3THW, weight)
        kl = 0.5 * (posterior.mean.float().square() + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        return Losses(level + _EDGES * edges + _KL * kl, {"level": error.mean(), "edges": edges, "kl": kl})

    def _view(self, turn: int) -> tuple[int, View]:
        """The view of a turn, and how many turns it has been shown before."""
        for view in self._plan.seeing_views[:-1]:
            if turn < view.turns:
                return turn, view
            turn -= view.turns
        return turn, self._plan.seeing_views[-1]

    def _corner(self, chosen: np.random.Generator, bank: Bank, *, rows: int, columns: int) -> tuple[int, int]:
        """Top and left of a part: anywhere, or as often with the middle of the mouths in it."""
        height, width = bank.weight.shape
        box = bank.frame.box(MOUTH_BOX)
        middle = ((box[1] + box[3]) // 2, (box[0] + box[2]) // 2)
        shows_mouth = chosen.random() < _WITH_MOUTH
        corner = []
        for size, most, place in ((rows, height, middle[0]), (columns, width, middle[1])):
            least, last = (max(0, place - size + 1), min(most - size, place)) if shows_mouth else (0, most - size)
            corner.append(int(chosen.integers(least, last + 1)))
        return corner[0], corner[1]


def mouth_weight(frame: Frame, *, times: float, device: torch.device) -> Tensor:
    """[H, W]: 1, and `times` as much where a mouth can be."""
    weight = torch.ones(frame.height, frame.width, device=device)
    left, top, right, bottom = frame.box(MOUTH_BOX)
    weight[top:bottom, left:right] = times
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
def latent_statistics(
    network: AutoencoderKLWan, banks: Sequence[Bank], *, batches: int, batch: int
) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every latent channel over so many batches of whole pictures."""
    seen = []
    for number in range(batches):
        bank = banks[number % len(banks)]
        places = torch.arange(number * batch, (number + 1) * batch) % len(bank.pixels)
        pixels = bank.pixels[places.to(bank.pixels.device), :_STATISTICS_FRAMES].transpose(1, 2).float() / 127.5 - 1
        seen.append(network.encode(pixels).latent_dist.mode().float().movedim(1, 0).flatten(1))
    every = torch.cat(seen, dim=1)
    return every.mean(1), every.std(1)
