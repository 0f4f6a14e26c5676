"""The arithmetic of the DiT on NVIDIA GPUs: the same numbers as `Kernels` up to rounding, in fewer and faster passes.

Knows which passes go together and what the weights have to be packed into for it. It differs from the plain path by:

1. queries, keys and values of self-attention are one product, and one pass norms, turns and stores them;
2. a residual, the norm behind it and the conversion to 8 bits are one pass over a row;
3. attention to a few keys (a prompt of up to `FOLDED_KEYS`, five tokens of sound) has its last product folded into the
   values: softmax(q k) v W = softmax(q k) (v W). The folded values are made once per prompt or block, and what is left
   of the product is as wide as there are keys. 7 % of all operations of a block go away.

In 8 bits the products of the layers that are needed in every forward (`HOT`) multiply rows and weights that were scaled
row by row; all others keep the network's dtype, or, to save memory, only store their weights in 8 bits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from worker.pipeline.checkpoint.fill import put
from worker.pipeline.dit import row_kernels
from worker.pipeline.dit.attention import SelfAttention
from worker.pipeline.dit.kernels import CrossKeys, Kernels, RowNorm, Rows
from worker.pipeline.dit.projections import Projections
from worker.pipeline.dit.rope import Turn
from worker.pipeline.dit.row_kernels import FP8, FP8_LARGEST
from worker.pipeline.dit.self_attend import SelfAttend

FOLDED_KEYS = 64
"""With more, folding would cost more than it saves: the product is as wide as all heads' keys, here 40 x 64 of 5120."""
KEY_STEP = 16
"""Keys are padded to this, or a power of two times it: the smallest tile of a tensor core product."""

HOT = re.compile(r"(self_attn\.[qkvo]|(cross_attn|injector\.\d+)\.q|ffn\.\d)\.weight$")
"""Weights of the products in every forward, the end of their names."""
COLD = re.compile(r"((cross_attn|injector\.\d+)\.[kvo]|injector_adain_layers\.\d+\.linear)\.weight$")
"""Weights of large products that run once per prompt or block."""

SCALES = "weight_scales"


@dataclass(frozen=True)
class FoldedKeys(CrossKeys):
    """A few keys [F, H, T, K] that carry the weight of the queries' norm, and values [F, H T, D] that carry the last
    product. Keys that fill up T have a bias of -inf."""


class FastKernels(Kernels):
    """One object for all layers. The network's weights have to go through `place` and `pack` first."""

    def __init__(
        self,
        self_attend: SelfAttend,
        *,
        row_dtype: torch.dtype,
        cache_dtype: torch.dtype,
        in_8_bits: Sequence[re.Pattern[str]] = (),
    ) -> None:
        """`row_dtype` is that of the rows that products take: the network's own, or `FP8`, and then weights of `HOT`
        have to be `in_8_bits`. `self_attend` has to take the dtype of the cache."""
        self._self_attend = self_attend
        self._row_dtype = row_dtype
        self.cache_dtype = cache_dtype
        self._in_8_bits = tuple(in_8_bits)

    def place(self, network: nn.Module, name: str, tensor: Tensor) -> None:
        if not any(pattern.search(name) for pattern in self._in_8_bits):
            put(network, name, tensor)
            return
        values, scales = quantized(tensor)
        put(network, name, values)
        network.get_submodule(name.rpartition(".")[0]).register_buffer(SCALES, scales, persistent=False)

    def pack(self, network: nn.Module) -> None:
        for module in network.modules():
            if isinstance(module, SelfAttention):
                _pack(module)

    def norm(self, x_SD: Tensor, norm: RowNorm) -> Rows:
        dtype = self._dtype_of(norm, x_SD)
        return Rows(*row_kernels.normed(x_SD, None, None, norm.scale, norm.shift, eps=norm.eps, out_dtype=dtype))

    def add_norm(
        self, x_SD: Tensor, y_SD: Tensor, norm: RowNorm, *, gate_D: Tensor | None = None
    ) -> tuple[Tensor, Rows]:
        dtype = self._dtype_of(norm, x_SD)
        rows = row_kernels.normed(x_SD, y_SD, gate_D, norm.scale, norm.shift, eps=norm.eps, out_dtype=dtype)
        return x_SD, Rows(*rows)

    def linear(self, rows: Rows, layer: nn.Linear) -> Tensor:
        if rows.scales is None:
            return functional.linear(rows.values, _weight(layer, rows.values.dtype), layer.bias)
        scales = weight_scales(layer)
        assert scales is not None, "8-bit rows meet 8-bit weights"
        return torch._scaled_mm(
            rows.values,
            layer.weight.t(),
            scale_a=rows.scales,
            scale_b=scales,
            bias=layer.bias,
            out_dtype=layer.bias.dtype,
            use_fast_accum=True,
        )

    def feed_forward(self, rows: Rows, up: nn.Linear, down: nn.Linear) -> Tensor:
        return self.linear(Rows(*row_kernels.gelu(self.linear(rows, up), out_dtype=self._row_dtype)), down)

    def project(
        self, rows: Rows, layer: Projections, turn: Turn, *, q_PShK: Tensor, k_PShK: Tensor, v_PShK: Tensor
    ) -> None:
        row_kernels.project(
            self.linear(rows, layer.qkv),
            layer.norm_q.weight,
            layer.norm_k.weight,
            turn.cos,
            turn.sin,
            eps=layer.eps,
            q_PShK=q_PShK,
            k_PShK=k_PShK,
            v_PShK=v_PShK,
        )

    def attend(self, q_GhK: Tensor, k_GhK: Tensor, v_GhK: Tensor) -> Tensor:
        return self._self_attend(q_GhK, k_GhK, v_GhK)

    def merge(self, o_PShK: Tensor) -> Rows:
        if len(o_PShK) == 1 and self._row_dtype is o_PShK.dtype:
            return Rows(o_PShK[0].flatten(1))
        return Rows(*row_kernels.merged(o_PShK, out_dtype=self._row_dtype))

    def read_keys(self, context_FTD: Tensor, layer: Projections, *, bias_T: Tensor) -> CrossKeys:
        plain = super().read_keys(context_FTD, layer, bias_T=bias_T)
        keys = context_FTD.shape[1]
        if keys > FOLDED_KEYS:
            return plain
        weight_HK = layer.norm_q.weight.view(layer.heads, -1)
        folded_FTHK = (plain.keys.float() * weight_HK.float()).to(context_FTD.dtype)
        padding = max(KEY_STEP, 1 << (keys - 1).bit_length()) - keys
        values_FHTD = self._fold(functional.pad(plain.values, (0, 0, 0, 0, 0, padding)), layer)
        return FoldedKeys(
            keys=functional.pad(folded_FTHK.transpose(1, 2), (0, 0, 0, padding)).contiguous(),
            values=values_FHTD.flatten(1, 2),
            bias=functional.pad(bias_T.float(), (0, padding), value=float("-inf")),
        )

    def cross(self, rows: Rows, layer: Projections, keys: CrossKeys) -> Tensor:
        if not isinstance(keys, FoldedKeys):
            return super().cross(rows, layer, keys)
        q_SD = self.linear(rows, layer.q)
        weights = row_kernels.cross_weights(q_SD, row_kernels.inverse_rms(q_SD, eps=layer.eps), keys.keys, keys.bias)
        y_FLD = q_SD.new_empty(len(keys.values), len(q_SD) // len(keys.values), q_SD.shape[1])
        weights_FL = weights.view(*y_FLD.shape[:2], -1)
        for frame in range(len(y_FLD)):
            torch.addmm(layer.o.bias, weights_FL[frame], keys.values[frame], out=y_FLD[frame])
        return y_FLD.flatten(0, 1)

    def turn_keys(self, still_NLhK: Tensor, turn: Turn, *, out_NLhK: Tensor) -> None:
        row_kernels.turn_keys(still_NLhK, turn.cos[0], turn.sin[0], out_NLhK=out_NLhK)

    def _dtype_of(self, norm: RowNorm, x_SD: Tensor) -> torch.dtype:
        return x_SD.dtype if norm.keeps_dtype else self._row_dtype

    def _fold(self, values_FTHK: Tensor, layer: Projections) -> Tensor:
        """Values times the last product's columns of their head, [F, H, T, D]."""
        frames, keys, heads, channels = values_FTHK.shape
        by_head_HKD = _weight(layer.o, values_FTHK.dtype).view(-1, heads, channels).permute(1, 2, 0)
        folded_HFTD = torch.bmm(values_FTHK.permute(2, 0, 1, 3).reshape(heads, frames * keys, channels), by_head_HKD)
        return folded_HFTD.view(heads, frames, keys, -1).transpose(0, 1).contiguous()


def _pack(attention: SelfAttention) -> None:
    """Queries, keys and values as one product, in place of the three."""
    parts = (attention.q, attention.k, attention.v)
    qkv = nn.Linear(1, 1, device="meta")
    qkv.weight, qkv.bias = (
        nn.Parameter(torch.cat([getattr(part, name) for part in parts]), requires_grad=False)
        for name in ("weight", "bias")
    )
    scales = [weight_scales(part) for part in parts]
    if scales[0] is not None:
        qkv.register_buffer(SCALES, torch.cat(cast("list[Tensor]", scales), dim=1), persistent=False)
    del attention.q, attention.k, attention.v
    attention.qkv = qkv


def quantized(weight_ED: Tensor) -> tuple[Tensor, Tensor]:
    """A weight in 8 bits, and what each of its rows has to be multiplied by, [1, E] float32."""
    exact_ED = weight_ED.float()
    scales_E1 = exact_ED.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / FP8_LARGEST
    return (exact_ED / scales_E1).to(FP8), scales_E1.t().contiguous()


def weight_scales(layer: nn.Linear) -> Tensor | None:
    """Of an 8-bit weight as in `quantized`; None where it is in the network's dtype."""
    return layer._buffers.get(SCALES)


def _weight(layer: nn.Linear, dtype: torch.dtype) -> Tensor:
    """[E, D], brought back to `dtype` where it is stored in 8 bits."""
    scales_1E = weight_scales(layer)
    return layer.weight if scales_1E is None else (layer.weight.float() * scales_1E.t()).to(dtype)
