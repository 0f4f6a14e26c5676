"""The arithmetic of the DiT: rows, products and attentions.

Knows numbers and their precision, nothing of layers or positions. This is the plain torch path: the reference, and what
runs on a CPU. `fast_kernels.py` does the same on NVIDIA GPUs; the network calls nothing else for its heavy work.

The residual stream x is read and written once between two branches of a layer: `add_norm` adds the branch behind it and
gives the normed rows of the branch to come. Such `Rows` are opaque to the network: they are what a product takes.

Precision (specification, section 16): the residual stream is kept in the network's dtype; sums inside norms, scale and
shift, and gated additions run in at least float32.

Shapes: S tokens of this rank, G tokens of the whole sequence, P ranks, T keys, F latent frames, D channels, E outputs,
H heads, h heads of this rank, K channels of a head, N layers, L tokens of one frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from worker.pipeline.checkpoint.fill import put
from worker.pipeline.dit.projections import Projections
from worker.pipeline.dit.rope import Turn


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums for values stored in `dtype`: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


@dataclass(frozen=True)
class Rows:
    """Rows [S, D] that a product takes."""

    values: Tensor
    scales: Tensor | None = None
    """[S, 1] float32, what each row of 8-bit values has to be multiplied by."""


@dataclass(frozen=True)
class RowNorm:
    """Layer norm over the channels, then `* scale + shift`: [D] each, or [F, D] for the tokens of each latent frame."""

    scale: Tensor
    shift: Tensor
    eps: float
    keeps_dtype: bool = False
    """The rows stay in the network's dtype even where products take 8-bit values; for the head."""


@dataclass(frozen=True)
class CrossKeys:
    """Keys and values [F, T, H, K] that the tokens of each latent frame attend to (F = 1: all tokens to all keys)."""

    keys: Tensor
    values: Tensor
    bias: Tensor
    """Added to the score of each key, [T]."""

    def fits(self, other: CrossKeys) -> bool:
        """Whether `other` can be copied into the memory of these."""
        return type(self) is type(other) and all(
            a.shape == b.shape for a, b in zip(self._all(), other._all(), strict=True)
        )

    def copy_(self, other: CrossKeys) -> None:
        """The numbers of `other`, in the memory of these."""
        for mine, its in zip(self._all(), other._all(), strict=True):
            mine.copy_(its)

    def _all(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.keys, self.values, self.bias


class Kernels:
    """Plain torch. Nothing changes between calls, so that one object serves every layer."""

    cache_dtype: torch.dtype | None = None
    """Of the keys and values in the attention cache; None: the network's own."""

    def place(self, network: nn.Module, name: str, tensor: Tensor) -> None:
        """A `Place` for the network's weights: keep this one as the products take it."""
        put(network, name, tensor)

    def pack(self, network: nn.Module) -> None:
        """To be called when all weights have arrived."""

    def norm(self, x_SD: Tensor, norm: RowNorm) -> Rows:
        """The normed rows of the residual stream."""
        exact = exact_dtype(x_SD.dtype)
        h_SD = functional.layer_norm(x_SD.to(exact), x_SD.shape[-1:], eps=norm.eps)
        scale_F1D, shift_F1D = (x.to(exact).view(-1, 1, x.shape[-1]) for x in (norm.scale, norm.shift))
        h_FLD = h_SD.view(len(scale_F1D), -1, h_SD.shape[-1])
        return Rows(torch.addcmul(shift_F1D, h_FLD, scale_F1D).flatten(0, 1).to(x_SD.dtype))

    def add_norm(
        self, x_SD: Tensor, y_SD: Tensor, norm: RowNorm, *, gate_D: Tensor | None = None
    ) -> tuple[Tensor, Rows]:
        """The residual stream with `y` (times `gate`) on it, and its normed rows. May write into `x`."""
        if gate_D is None:
            x_SD = x_SD + y_SD
        else:
            exact = exact_dtype(x_SD.dtype)
            x_SD = torch.addcmul(x_SD.to(exact), y_SD.to(exact), gate_D.to(exact)).to(x_SD.dtype)
        return x_SD, self.norm(x_SD, norm)

    def linear(self, rows: Rows, layer: nn.Linear) -> Tensor:
        """[S, D] to [S, E]."""
        return functional.linear(rows.values, layer.weight, layer.bias)

    def feed_forward(self, rows: Rows, up: nn.Linear, down: nn.Linear) -> Tensor:
        """Linear, GELU in its tanh form, linear."""
        return self.linear(Rows(functional.gelu(self.linear(rows, up), approximate="tanh")), down)

    def project(
        self, rows: Rows, layer: Projections, turn: Turn, *, q_PShK: Tensor, k_PShK: Tensor, v_PShK: Tensor
    ) -> None:
        """Queries and keys, normed and turned, and values, each into the place of the rank that has its head."""
        turned = ((layer.q, layer.norm_q, q_PShK), (layer.k, layer.norm_k, k_PShK))
        for linear, norm, out_PShK in turned:
            x_SD = rms_norm(self.linear(rows, linear), norm.weight, eps=layer.eps)
            _put(rotate(_heads(x_SD, layer), turn), out_PShK)
        _put(_heads(self.linear(rows, layer.v), layer), v_PShK)

    def attend(self, q_GhK: Tensor, k_GhK: Tensor, v_GhK: Tensor) -> Tensor:
        """Softmax attention of every head, [G, h, K]. No mask: the order of the keys does not matter."""
        return _attend(q_GhK[None], k_GhK[None], v_GhK[None])[0]

    def merge(self, o_PShK: Tensor) -> Rows:
        """The heads of all ranks side by side, as rows."""
        return Rows(rearrange(o_PShK, "p s h k -> s (p h k)"))

    def read_keys(self, context_FTD: Tensor, layer: Projections, *, bias_T: Tensor) -> CrossKeys:
        """What `cross` needs of the tokens it attends to."""
        keys_FTD = rms_norm(self.linear(Rows(context_FTD), layer.k), layer.norm_k.weight, eps=layer.eps)
        values_FTD = self.linear(Rows(context_FTD), layer.v)
        return CrossKeys(_heads(keys_FTD, layer), _heads(values_FTD, layer), bias_T)

    def cross(self, rows: Rows, layer: Projections, keys: CrossKeys) -> Tensor:
        """Attention of the tokens of each latent frame to the keys of that frame: [S, D] to [S, D]."""
        q_SD = rms_norm(self.linear(rows, layer.q), layer.norm_q.weight, eps=layer.eps)
        q_FLHK = q_SD.view(keys.keys.shape[0], -1, layer.heads, keys.keys.shape[-1])
        o_FLHK = _attend(q_FLHK, keys.keys, keys.values, bias_T=keys.bias)
        return self.linear(Rows(o_FLHK.flatten(2).flatten(0, 1)), layer.o)

    def turn_keys(self, still_NLhK: Tensor, turn: Turn, *, out_NLhK: Tensor) -> None:
        """All keys by the same angles, [1, K / 2]."""
        for written, still in zip(out_NLhK, still_NLhK, strict=True):  # a layer at a time: memory
            written.copy_(rotate(still, turn))


def rms_norm(x_SD: Tensor, weight_D: Tensor, *, eps: float) -> Tensor:
    """`x / sqrt(mean(x^2) + eps) * weight`, the mean over all channels of a token, before any split into heads."""
    x_exact = x_SD.to(exact_dtype(x_SD.dtype))
    h_SD = x_exact * torch.rsqrt(x_exact.square().mean(-1, keepdim=True) + eps)
    return h_SD.to(x_SD.dtype) * weight_D


def rotate(x_SHK: Tensor, turn: Turn) -> Tensor:
    """Turn the interleaved pairs of every head: [S, H, K] by [S, K / 2] angles (specification, section 5)."""
    even, odd = x_SHK.to(turn.cos.dtype).view(*x_SHK.shape[:-1], -1, 2).unbind(-1)
    cos, sin = turn.cos[:, None], turn.sin[:, None]
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x_SHK.dtype)


def _heads(x: Tensor, layer: Projections) -> Tensor:
    """[..., D] to [..., H, K]."""
    return x.view(*x.shape[:-1], layer.heads, -1)


def _put(x_SHK: Tensor, out_PShK: Tensor) -> None:
    out_PShK.copy_(rearrange(x_SHK, "s (p h) k -> p s h k", p=out_PShK.shape[0]))


def _attend(q_BSHK: Tensor, k_BGHK: Tensor, v_BGHK: Tensor, *, bias_T: Tensor | None = None) -> Tensor:
    """With scale 1 / sqrt(K); `bias_T` is added to the scores of each key."""
    q, k, v = (x.transpose(1, 2) for x in (q_BSHK, k_BGHK, v_BGHK))
    mask = None if bias_T is None else bias_T.to(q.dtype).expand(q.shape[-2], -1)
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
