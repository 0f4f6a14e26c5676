"""One layer of the DiT, the audio injection behind some layers, and the head (specification, sections 4.4 to 4.6).

Knows the order of the residuals. What does not change within a job or a block (modulation by time, keys of text and
audio) is computed once and handed in. A branch takes the normed rows of the residual stream, and the addition behind it
gives the rows of the next one; so every layer is told which norm follows it.

Shapes: S tokens of this rank, F latent frames, D channels, A audio tokens of a frame.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from worker.pipeline.config import DiTConfig
from worker.pipeline.dit.attention import Call, CrossAttention, SelfAttention
from worker.pipeline.dit.kernels import CrossKeys, Kernels, RowNorm, Rows, exact_dtype


@dataclass(frozen=True)
class Modulation:
    """The norm in front of a branch under one timestep, and the gate [D] behind the branch."""

    norm: RowNorm
    gate: Tensor


@dataclass(frozen=True)
class BlockModulation:
    """What a timestep does to one layer."""

    attention: Modulation
    feed_forward: Modulation


@dataclass(frozen=True)
class AudioInjection:
    """What a block's audio does behind one layer: the norm of each latent frame's tokens, and what they attend to."""

    norm: RowNorm
    keys: CrossKeys


class DiTBlock(nn.Module):
    """Self-attention, text attention, feed-forward, each on the residual stream."""

    def __init__(self, config: DiTConfig, kernels: Kernels) -> None:
        super().__init__()
        self.eps = config.eps
        self.kernels = kernels
        self.modulation = nn.Parameter(torch.zeros(1, 6, config.dim))
        self.self_attn = SelfAttention(config, kernels)
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        self.cross_attn = CrossAttention(config, kernels)
        self.ffn = FeedForward(config, kernels)

    def forward(
        self,
        x_SD: Tensor,
        rows: Rows,
        *,
        modulation: BlockModulation,
        text: CrossKeys,
        layer: int,
        call: Call,
        following: RowNorm,
    ) -> tuple[Tensor, Rows]:
        """The residual stream [S, D] after this layer (section 4.4) and its rows under the norm that follows.

        `rows` are those of x under the norm of this layer's modulation. Writes the layer's keys into the cache.
        """
        ops = self.kernels
        y_SD = self.self_attn(rows, layer=layer, call=call)
        x_SD, rows = ops.add_norm(x_SD, y_SD, self._text_norm(), gate_D=modulation.attention.gate)
        y_SD = self.cross_attn(rows, text)
        x_SD, rows = ops.add_norm(x_SD, y_SD, modulation.feed_forward.norm)
        y_SD = self.ffn(rows)
        return ops.add_norm(x_SD, y_SD, following, gate_D=modulation.feed_forward.gate)

    def modulate(self, e0_6D: Tensor) -> BlockModulation:
        """The layer's own offsets plus those of the timestep, in at least float32."""
        exact = exact_dtype(e0_6D.dtype)
        parts = (self.modulation[0].to(exact) + e0_6D.to(exact)).unbind(0)
        return BlockModulation(attention=self._branch(*parts[:3]), feed_forward=self._branch(*parts[3:]))

    def _branch(self, shift_D: Tensor, scale_D: Tensor, gate_D: Tensor) -> Modulation:
        return Modulation(norm=RowNorm(1 + scale_D, shift_D, self.eps), gate=gate_D)

    def _text_norm(self) -> RowNorm:
        return RowNorm(self.norm3.weight, self.norm3.bias, self.norm3.eps)


class FeedForward(nn.Sequential):
    """Linear, GELU in its tanh form, linear; the released keys number them 0 and 2."""

    def __init__(self, config: DiTConfig, kernels: Kernels) -> None:
        up, down = nn.Linear(config.dim, config.ffn_dim), nn.Linear(config.ffn_dim, config.dim)
        super().__init__(up, nn.GELU(approximate="tanh"), down)
        self.kernels = kernels

    def forward(self, rows: Rows) -> Tensor:
        """Rows to [S, D]."""
        up, _, down = self
        return self.kernels.feed_forward(rows, cast(nn.Linear, up), cast(nn.Linear, down))


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
        self.injector = nn.ModuleList(CrossAttention(config, kernels) for _ in range(count))
        self.injector_adain_layers = nn.ModuleList(AdaIN(config) for _ in range(count))

    def forward(
        self, x_SD: Tensor, rows: Rows, *, number: int, audio: AudioInjection, following: RowNorm
    ) -> tuple[Tensor, Rows]:
        """Injection `number`: the residual stream after it, and its rows under the norm that follows.

        `rows` are those of x under the norm of the injection; the residual goes on the tokens before it.
        """
        return self.kernels.add_norm(x_SD, self.injector[number](rows, audio.keys), following)

    def read(self, global_FD: Tensor, tokens_FAD: Tensor) -> tuple[AudioInjection, ...]:
        """What every injection needs of a block's audio (specification, shortcut 5)."""
        injections = []
        adains, attentions = (
            cast(Iterable[AdaIN], self.injector_adain_layers),
            cast(Iterable[CrossAttention], self.injector),
        )
        for adain, attention in zip(adains, attentions, strict=True):
            shift_FD, scale_FD = self.kernels.linear(Rows(silu(global_FD)), adain.linear).chunk(2, dim=-1)
            exact = exact_dtype(shift_FD.dtype)
            norm = RowNorm(1 + scale_FD.to(exact), shift_FD.to(exact).contiguous(), self.eps)
            injections.append(AudioInjection(norm=norm, keys=attention.read(tokens_FAD)))
        return tuple(injections)


class Head(nn.Module):
    """From tokens to the 2 x 2 latent cells of each."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.eps = config.eps
        _, p, q = config.patch
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.dim))
        self.head = nn.Linear(config.dim, p * q * config.out_dim)

    def forward(self, rows: Rows) -> Tensor:
        """Rows under the norm of `modulate` to [S, 64]."""
        return linear(rows.values, self.head.weight, self.head.bias)

    def modulate(self, e_D: Tensor) -> RowNorm:
        """From e itself, not from its projection."""
        exact = exact_dtype(e_D.dtype)
        shift_D, scale_D = (self.modulation[0].to(exact) + e_D.to(exact)).unbind(0)
        return RowNorm(1 + scale_D, shift_D, self.eps, keeps_dtype=True)
