"""One layer of the DiT, the audio injection behind some layers, and the head (specification, sections 4.4 to 4.6).

Knows the order of the residuals. What does not change within a job or a block (modulation by time, keys of text and
audio) is computed once and handed in.

Shapes: S tokens of this rank, F latent frames, D channels, A audio tokens of a frame.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from worker.pipeline.config import DiTConfig
from worker.pipeline.dit.attention import AudioAttention, AudioKeys, Call, SelfAttention, TextAttention, TextKeys
from worker.pipeline.dit.kernels import Kernels, exact_dtype


@dataclass(frozen=True)
class Modulation:
    """Shift and scale behind a norm, and the gate of the branch that follows, [D] each."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


@dataclass(frozen=True)
class BlockModulation:
    """What a timestep does to one layer."""

    attention: Modulation
    feed_forward: Modulation


@dataclass(frozen=True)
class HeadModulation:
    """What a timestep does to the head, [D] each."""

    shift: Tensor
    scale: Tensor


@dataclass(frozen=True)
class AudioInjection:
    """What a block's audio does behind one layer: shift and scale [F, 1, D] of the norm, keys and values."""

    shift: Tensor
    scale: Tensor
    keys: AudioKeys


class DiTBlock(nn.Module):
    """Self-attention, text attention, feed-forward, each on the residual stream."""

    def __init__(self, config: DiTConfig, kernels: Kernels) -> None:
        super().__init__()
        self.eps = config.eps
        self.kernels = kernels
        self.modulation = nn.Parameter(torch.zeros(1, 6, config.dim))
        self.self_attn = SelfAttention(config, kernels)
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        self.cross_attn = TextAttention(config, kernels)
        self.ffn = FeedForward(config, kernels)

    def forward(self, x_SD: Tensor, *, modulation: BlockModulation, text: TextKeys, layer: int, call: Call) -> Tensor:
        """The residual stream [S, D] after this layer (section 4.4). Writes the layer's keys into the cache."""
        ops = self.kernels
        y_SD = self.self_attn(self._before_attention(x_SD, modulation), layer=layer, call=call)
        x_SD = ops.add_gated(x_SD, y_SD, modulation.attention.gate)
        x_SD = ops.add(x_SD, self.cross_attn(ops.norm_affine(x_SD, self.norm3), text))
        branch = modulation.feed_forward
        h_SD = ops.norm_modulate(x_SD, shift=branch.shift, scale=branch.scale, eps=self.eps)
        return ops.add_gated(x_SD, self.ffn(h_SD), branch.gate)

    def write_keys(self, x_SD: Tensor, *, modulation: BlockModulation, layer: int, call: Call) -> None:
        """Only what later calls read of this layer: its keys and values."""
        self.self_attn.write(self._before_attention(x_SD, modulation), layer=layer, call=call)

    def modulate(self, e0_6D: Tensor) -> BlockModulation:
        """The layer's own offsets plus those of the timestep, in at least float32."""
        exact = exact_dtype(e0_6D.dtype)
        parts = (self.modulation[0].to(exact) + e0_6D.to(exact)).unbind(0)
        return BlockModulation(attention=Modulation(*parts[:3]), feed_forward=Modulation(*parts[3:]))

    def _before_attention(self, x_SD: Tensor, modulation: BlockModulation) -> Tensor:
        branch = modulation.attention
        return self.kernels.norm_modulate(x_SD, shift=branch.shift, scale=branch.scale, eps=self.eps)


class FeedForward(nn.Sequential):
    """Linear, GELU in its tanh form, linear; the released keys number them 0 and 2."""

    def __init__(self, config: DiTConfig, kernels: Kernels) -> None:
        up, down = nn.Linear(config.dim, config.ffn_dim), nn.Linear(config.ffn_dim, config.dim)
        super().__init__(up, nn.GELU(approximate="tanh"), down)
        self.kernels = kernels

    def forward(self, x_SD: Tensor) -> Tensor:
        """[S, D] to [S, D]."""
        up, _, down = self
        return self.kernels.feed_forward(x_SD, cast(nn.Linear, up), cast(nn.Linear, down))


class AdaIN(nn.Module):
    """The linear that makes shift and scale (in this order) of a norm from the global audio vector."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.dim, 2 * config.dim)


class AudioInjector(nn.Module):
    """Brings the sound of each latent frame into its tokens, behind the layers listed in the config."""

    def __init__(self, config: DiTConfig, kernels: Kernels) -> None:
        super().__init__()
        self.eps = config.adain_eps
        self.kernels = kernels
        count = len(config.audio_inject_layers)
        self.injector = nn.ModuleList(AudioAttention(config, kernels) for _ in range(count))
        self.injector_adain_layers = nn.ModuleList(AdaIN(config) for _ in range(count))

    def forward(self, x_SD: Tensor, *, number: int, audio: AudioInjection) -> Tensor:
        """Injection `number` on the residual stream. The residual goes on the tokens before the norm."""
        frames = audio.shift.shape[0]
        h_FSD = self.normed(x_SD.view(frames, -1, x_SD.shape[-1]), audio)
        y_FSD: Tensor = self.injector[number](h_FSD, audio.keys)
        return self.kernels.add(x_SD, y_FSD.flatten(0, 1))

    def normed(self, x_FSD: Tensor, audio: AudioInjection) -> Tensor:
        """The norm of every latent frame's tokens under the shift and scale of its sound."""
        return self.kernels.norm_modulate(x_FSD, shift=audio.shift, scale=audio.scale, eps=self.eps)

    def read(self, global_FD: Tensor, tokens_FAD: Tensor) -> tuple[AudioInjection, ...]:
        """What every injection needs of a block's audio (specification, shortcut 5)."""
        injections = []
        adains, attentions = (
            cast(Iterable[AdaIN], self.injector_adain_layers),
            cast(Iterable[AudioAttention], self.injector),
        )
        for adain, attention in zip(adains, attentions, strict=True):
            shift_FD, scale_FD = self.kernels.linear(silu(global_FD), adain.linear).chunk(2, dim=-1)
            exact = exact_dtype(shift_FD.dtype)
            injections.append(
                AudioInjection(
                    shift=shift_FD[:, None].to(exact),
                    scale=scale_FD[:, None].to(exact),
                    keys=attention.read(tokens_FAD),
                )
            )
        return tuple(injections)


class Head(nn.Module):
    """From tokens to the 2 x 2 latent cells of each."""

    def __init__(self, config: DiTConfig, kernels: Kernels) -> None:
        super().__init__()
        self.eps = config.eps
        self.kernels = kernels
        _, p, q = config.patch
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.dim))
        self.head = nn.Linear(config.dim, p * q * config.out_dim)

    def forward(self, x_SD: Tensor, modulation: HeadModulation) -> Tensor:
        """[S, D] to [S, 64]."""
        h_SD = self.kernels.norm_modulate(x_SD, shift=modulation.shift, scale=modulation.scale, eps=self.eps)
        return self.kernels.linear(h_SD, self.head)

    def modulate(self, e_D: Tensor) -> HeadModulation:
        """From e itself, not from its projection."""
        exact = exact_dtype(e_D.dtype)
        return HeadModulation(*(self.modulation[0].to(exact) + e_D.to(exact)).unbind(0))
