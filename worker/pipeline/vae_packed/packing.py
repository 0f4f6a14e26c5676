"""From diffusers' modules to the layouts that the packed decoder computes with.

Knows diffusers' modules by name and how a convolution's weights are rearranged; computes no activations. Every
rearrangement is done in float32 at least and rounded once.

Shapes: C channels in, K out; a kernel of 3 frames is g0, g1, g2 from the earliest on.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    AutoencoderKLWan,
    WanAttentionBlock,
    WanCausalConv3d,
    WanRMS_norm,
    WanUpBlock,
)
from torch import Tensor, nn

from worker.pipeline.dit.kernels import exact_dtype
from worker.pipeline.vae_packed.weights import (
    COLOURS,
    PAST,
    TAPS,
    AttentionWeights,
    CachePlace,
    DecoderWeights,
    HeadWeights,
    LevelWeights,
    Linear,
    PairConv,
    ResidualWeights,
    TapConv,
    TimeConv,
    UpsampleWeights,
)


def pack_decoder(network: AutoencoderKLWan) -> DecoderWeights:
    """From diffusers' network, which keeps its own; on its device and in its dtype."""
    return _Packing().decoder(network)


class _Packing:
    """Walks the decoder in the order of its layers and hands out places for their caches."""

    def __init__(self) -> None:
        self._caches: list[CachePlace] = []

    def decoder(self, network: AutoencoderKLWan) -> DecoderWeights:
        decoder: Any = network.decoder  # modules by name, of which torch's types know nothing
        first, last = decoder.mid_block.resnets
        (attention,) = decoder.mid_block.attentions
        return DecoderWeights(
            post_quant=_one_place(network.post_quant_conv),
            conv_in=self._tap_conv(decoder.conv_in),
            middle_first=self._residual(first, enlargement=1),
            middle_attention=_attention(attention),
            middle_last=self._residual(last, enlargement=1),
            levels=tuple(self._level(block, enlargement=2**i) for i, block in enumerate(decoder.up_blocks)),
            head=self._head(decoder.norm_out, decoder.conv_out, enlargement=2 ** (len(decoder.up_blocks) - 1)),
            caches=tuple(self._caches),
        )

    def _level(self, block: WanUpBlock, *, enlargement: int) -> LevelWeights:
        upsamplers = block.upsamplers
        return LevelWeights(
            blocks=tuple(self._residual(each, enlargement=enlargement) for each in block.resnets),
            upsample=None if upsamplers is None else self._upsample(upsamplers[0], enlargement=enlargement),
        )

    def _residual(self, block: Any, *, enlargement: int) -> ResidualWeights:
        shortcut = block.conv_shortcut
        return ResidualWeights(
            norm1=_norm(block.norm1),
            conv1=self._pair_conv(block.conv1, enlargement=enlargement),
            norm2=_norm(block.norm2),
            conv2=self._pair_conv(block.conv2, enlargement=enlargement),
            shortcut=None if isinstance(shortcut, nn.Identity) else _one_place(shortcut),
        )

    def _pair_conv(self, conv: WanCausalConv3d, *, enlargement: int) -> PairConv:
        return PairConv(
            weights=frame_pairs(conv.weight),
            bias=_exact(conv.bias),
            cache=self._place(conv.in_channels, enlargement),
        )

    def _tap_conv(self, conv: WanCausalConv3d) -> TapConv:
        weight_KT33 = conv.weight.detach().transpose(1, 2).flatten(1, 2)
        return TapConv(
            weight=weight_KT33.contiguous(memory_format=torch.channels_last),
            bias=_exact(conv.bias),
            cache=self._place(conv.in_channels, 1),
        )

    def _upsample(self, resample: Any, *, enlargement: int) -> UpsampleWeights:
        _, conv = resample.resample
        assert isinstance(conv, nn.Conv2d)
        time = resample.time_conv if resample.mode == "upsample3d" else None
        return UpsampleWeights(
            time=None if time is None else self._time_conv(time, enlargement=enlargement),
            weight=on_cells(conv.weight),
            bias=_exact(conv.bias),
        )

    def _time_conv(self, conv: WanCausalConv3d, *, enlargement: int) -> TimeConv:
        weight_2KT = conv.weight.detach()[..., 0, 0].transpose(1, 2).flatten(1)
        assert conv.bias is not None
        early, late = weight_2KT.chunk(2)
        bias_early, bias_late = conv.bias.detach().chunk(2)
        return TimeConv(
            halves=(Linear(early.contiguous(), bias_early), Linear(late.contiguous(), bias_late)),
            cache=self._place(conv.in_channels, enlargement),
        )

    def _head(self, norm: WanRMS_norm, conv: WanCausalConv3d, *, enlargement: int) -> HeadWeights:
        return HeadWeights(
            norm=_norm(norm),
            weight=conv.weight.detach().permute(2, 3, 4, 0, 1).flatten(0, 3).contiguous(),
            bias=_exact(conv.bias),
            # what the last two frames give to frames after them, instead of the frames themselves
            cache=self._place(PAST * TAPS // 3 * COLOURS, enlargement),
        )

    def _place(self, channels: int, enlargement: int) -> CachePlace:
        place = CachePlace(slot=len(self._caches), channels=channels, enlargement=enlargement)
        self._caches.append(place)
        return place


def frame_pairs(weight_KC333: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights [K, C, 3, 3] of four 2D convolutions that together make two frames of a causal one.

    Of frames d0 .. d3 they take d0 - d2, d1 + d2, d2 - d1 and d1 - d3 and make m0 .. m3; the convolution's values for
    d2 and d3 are m0 + m1 + m2 and m1 - m2 - m3 (Winograd's F(2, 3) along time). Four products where six were.
    """
    g0, g1, g2 = _exact(weight_KC333).unbind(2)
    four = (g0, (g0 + g1 + g2) / 2, (g0 - g1 + g2) / 2, g2)
    m0, m1, m2, m3 = (w.to(weight_KC333.dtype).contiguous(memory_format=torch.channels_last) for w in four)
    return m0, m1, m2, m3


def on_cells(weight_KC33: Tensor) -> Tensor:
    """Weights [4K, C, 2, 2] for the picture before it is doubled: rows a, columns b and K, in this order.

    Two of three rows of the kernel fall on the same row of the small picture. With one pixel of padding, the pixel
    (2i + a, 2j + b) of the large picture is the value (i + a, j + b) of part (a, b). 16 products where 36 were.
    """
    exact = _exact(weight_KC33)
    falls_on = exact.new_tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
    cells = torch.einsum("aur,bvs,kcrs->abkcuv", falls_on, falls_on, exact).flatten(0, 2)
    return cells.to(weight_KC33.dtype).contiguous(memory_format=torch.channels_last)


def _attention(block: WanAttentionBlock) -> AttentionWeights:
    return AttentionWeights(norm=_norm(block.norm), to_qkv=_one_place(block.to_qkv), proj=_one_place(block.proj))


def _one_place(conv: nn.Conv2d | nn.Conv3d) -> Linear:
    assert conv.bias is not None
    return Linear(weight=conv.weight.detach().flatten(1).contiguous(), bias=conv.bias.detach())


def _norm(norm: WanRMS_norm) -> Tensor:
    """The norm's own weights times sqrt(C), by which it multiplies too."""
    gamma_C = _exact(norm.gamma).flatten()
    return gamma_C * math.sqrt(len(gamma_C))


def _exact(parameter: Tensor | None) -> Tensor:
    assert parameter is not None
    return parameter.detach().to(exact_dtype(parameter.dtype))
