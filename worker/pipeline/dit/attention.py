"""The three attentions of a layer: over the cached video, over the text, over the audio (specification, section 4).

Knows projections, norms and heads. Self-attention reads the same on one rank or many: tokens are exchanged for
heads on the way in and back on the way out. Only the new tokens travel: the cache keeps all tokens, of this rank's
heads.

Shapes: S tokens of this rank, G tokens of the whole sequence, T text keys, F latent frames, A audio tokens of a frame,
D channels, H heads, h heads of this rank, K channels of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.pipeline.config import DiTConfig
from worker.pipeline.dit.kernels import Kernels
from worker.pipeline.dit.kv_cache import KVCache, Slots
from worker.pipeline.dit.rope import Turn
from worker.pipeline.parallel import SequenceParallel


@dataclass(frozen=True)
class Call:
    """What all layers of one forward share."""

    slots: Slots
    turn: Turn
    cache: KVCache
    sequence: SequenceParallel


@dataclass(frozen=True)
class TextKeys:
    """Keys and values [T, H, K] of a prompt for one layer, and what is added to the score of each key, [T].

    The last key may stand for many equal ones, by its bias.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor


@dataclass(frozen=True)
class AudioKeys:
    """Keys and values [F, A, H, K] of a block's audio tokens for one injection."""

    keys: Tensor
    values: Tensor


class RMSNorm(nn.Module):
    """The weight of a norm over all channels of a token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))


class Attention(nn.Module):
    """What the three have in common: four products and the norms of queries and keys."""

    def __init__(self, config: DiTConfig, kernels: Kernels) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.eps = config.eps
        self.kernels = kernels
        self.q = nn.Linear(config.dim, config.dim)
        self.k = nn.Linear(config.dim, config.dim)
        self.v = nn.Linear(config.dim, config.dim)
        self.o = nn.Linear(config.dim, config.dim)
        self.norm_q = RMSNorm(config.dim)
        self.norm_k = RMSNorm(config.dim)

    def query(self, x: Tensor) -> Tensor:
        """[..., D] to normed queries [..., H, K]."""
        q = self.kernels.rms_norm(self.kernels.linear(x, self.q), self.norm_q.weight, eps=self.eps)
        return self._split(q)

    def key(self, x: Tensor) -> Tensor:
        """[..., D] to normed keys [..., H, K]."""
        k = self.kernels.rms_norm(self.kernels.linear(x, self.k), self.norm_k.weight, eps=self.eps)
        return self._split(k)

    def value(self, x: Tensor) -> Tensor:
        """[..., D] to values [..., H, K]."""
        return self._split(self.kernels.linear(x, self.v))

    def output(self, o: Tensor) -> Tensor:
        """[..., H, K] back to [..., D]."""
        return self.kernels.linear(o.flatten(-2), self.o)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, -1)


class SelfAttention(Attention):
    """Attention of a block's tokens to the reference frame, the previous block and themselves."""

    def forward(self, x_SD: Tensor, *, layer: int, call: Call) -> Tensor:
        """[S, D] to [S, D]; writes these tokens' keys first, and attends to the slots of the call (section 6)."""
        self.write(x_SD, layer=layer, call=call)
        q_SHK = self.kernels.rotate(self.query(x_SD), cos_SP=call.turn.cos, sin_SP=call.turn.sin)
        size = call.sequence.size
        q_GhK = q_SHK.new_empty(q_SHK.shape[0] * size, self.heads // size, q_SHK.shape[2])
        q_GhK = call.sequence.gather_tokens(q_SHK, out_GhK=q_GhK)
        k_GhK = call.cache.k_NGHK[layer, call.slots.read]
        v_GhK = call.cache.v_NGHK[layer, call.slots.read]
        o_GhK = self.kernels.attend(q_GhK[None], k_GhK[None], v_GhK[None])[0]
        return self.output(call.sequence.gather_heads(o_GhK))

    def write(self, x_SD: Tensor, *, layer: int, call: Call) -> None:
        """Put the keys (after RoPE) and values of these tokens into the cache of every rank that needs them."""
        k_SHK = self.kernels.rotate(self.key(x_SD), cos_SP=call.turn.cos, sin_SP=call.turn.sin)
        call.sequence.gather_tokens(k_SHK, out_GhK=call.cache.k_NGHK[layer, call.slots.write])
        call.sequence.gather_tokens(self.value(x_SD), out_GhK=call.cache.v_NGHK[layer, call.slots.write])


class TextAttention(Attention):
    """Attention to the prompt. No positions, no mask: the padding is attended to as well (quirk 5)."""

    def forward(self, x_SD: Tensor, text: TextKeys) -> Tensor:
        """[S, D] to [S, D]."""
        q_SHK = self.query(x_SD)
        o_SHK = self.kernels.attend(q_SHK[None], text.keys[None], text.values[None], bias_G=text.bias)[0]
        return self.output(o_SHK)

    def read(self, context_TD: Tensor, *, padding: int) -> TextKeys:
        """Keys and values of the embedded prompt. With `padding` > 0 the last row stands for so many equal rows:
        a key counted n times in a softmax is one key with log(n) on its score."""
        bias_T = context_TD.new_zeros(context_TD.shape[0])
        if padding:
            bias_T[-1] = math.log(padding)
        return TextKeys(keys=self.key(context_TD), values=self.value(context_TD), bias=bias_T)


class AudioAttention(Attention):
    """Attention of every latent frame's tokens to the audio tokens of that frame."""

    def forward(self, x_FSD: Tensor, audio: AudioKeys) -> Tensor:
        """[F, S, D] to [F, S, D], each frame's tokens to its own A audio tokens."""
        o_FSHK = self.kernels.attend(self.query(x_FSD), audio.keys, audio.values)
        return self.output(o_FSHK)

    def read(self, tokens_FAD: Tensor) -> AudioKeys:
        """Keys and values [F, A, H, K] of audio tokens [F, A, D]."""
        return AudioKeys(keys=self.key(tokens_FAD), values=self.value(tokens_FAD))
