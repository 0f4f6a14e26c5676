"""What happens to the rows of the DiT between its products, in Triton: a row is read once and written once.

Knows rows of numbers; which product they come from and go to is known in `fast_kernels.py`. A program holds one row, or
a tile of rows and one head, in registers. Sums run in float32; numbers are rounded to the dtype of their tensor where
the plain path stores them, so that both paths round alike. 8-bit rows get a scale each: their largest number becomes
448.

Every size that changes with the picture is an argument, not a constant: nothing is compiled again for another picture.

Shapes: S rows, D channels, E wider channels, H heads, K channels of a head, P ranks, F latent frames, T keys, N layers,
L tokens of one latent frame.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

FP8 = torch.float8_e4m3fn
FP8_LARGEST = 448.0
SMALLEST_ROW = 1e-12
"""A row's largest number below which its scale does not follow: a row of zeros stays one."""

_LARGEST, _SMALLEST = tl.constexpr(FP8_LARGEST), tl.constexpr(SMALLEST_ROW)

TILE_ROWS = 64
WIDE_ROW = 8192
"""Channels from which a row is given twice the warps."""


def normed(
    x_SD: Tensor,
    y_SD: Tensor | None,
    gate_D: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    *,
    eps: float,
    out_dtype: torch.dtype,
) -> tuple[Tensor, Tensor | None]:
    """Layer norm of x + y * gate, times `scale` plus `shift` ([D] or [F, D]); the sum is written to x.

    The rows and, for 8-bit ones, their scales [S, 1].
    """
    count, width = x_SD.shape
    _assert_contiguous(x_SD, y_SD, gate_D, scale, shift)
    rows, scales = _new_rows(x_SD, width, out_dtype)
    frames = scale.shape[0] if scale.ndim == 2 else 1
    _normed[(count,)](
        x_SD,
        y_SD if y_SD is not None else x_SD,
        gate_D if gate_D is not None else x_SD,
        scale,
        shift,
        rows,
        scales if scales is not None else rows,
        width,
        count // frames,
        eps,
        HAS_Y=y_SD is not None,
        HAS_GATE=gate_D is not None,
        IN_8_BITS=scales is not None,
        **_row_shape(width),
    )
    return rows, scales


def gelu(x_SE: Tensor, *, out_dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """GELU in its tanh form of every number; rows and scales as in `normed`."""
    _assert_contiguous(x_SE)
    rows, scales = _new_rows(x_SE, x_SE.shape[1], out_dtype)
    _gelu[(len(x_SE),)](
        x_SE,
        rows,
        scales if scales is not None else rows,
        x_SE.shape[1],
        IN_8_BITS=scales is not None,
        **_row_shape(x_SE.shape[1]),
    )
    return rows, scales


def merged(o_PShK: Tensor, *, out_dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """The heads of all ranks side by side, [S, D]; rows and scales as in `normed`."""
    ranks, count, heads, channels = o_PShK.shape
    width = ranks * heads * channels
    _assert_contiguous(o_PShK)
    rows, scales = _new_rows(o_PShK.view(ranks * count, -1)[:count], width, out_dtype)
    _merged[(count,)](
        o_PShK,
        rows,
        scales if scales is not None else rows,
        width,
        heads * channels,
        count * heads * channels,
        IN_8_BITS=scales is not None,
        **_row_shape(width),
    )
    return rows, scales


def project(
    qkv_SD: Tensor,
    norm_q_D: Tensor,
    norm_k_D: Tensor,
    cos_SP: Tensor,
    sin_SP: Tensor,
    *,
    eps: float,
    q_PShK: Tensor,
    k_PShK: Tensor,
    v_PShK: Tensor,
) -> None:
    """Queries, keys and values [S, 3 D]: norm the first two over all channels and turn them; to each rank its heads.

    The three outputs are of one shape, contiguous, in 16 or 8 bits (then as they are, without a scale).
    """
    count, width = len(qkv_SD), qkv_SD.shape[1] // 3
    part = width // len(q_PShK)
    _assert_contiguous(qkv_SD, norm_q_D, norm_k_D, cos_SP, sin_SP, q_PShK, k_PShK, v_PShK)
    _project[(count, 3)](
        qkv_SD,
        norm_q_D,
        norm_k_D,
        cos_SP,
        sin_SP,
        q_PShK,
        k_PShK,
        v_PShK,
        width,
        part,
        count * part,
        eps,
        PAIRS=cos_SP.shape[1],
        **_row_shape(width),
    )


def inverse_rms(x_SD: Tensor, *, eps: float) -> Tensor:
    """`1 / sqrt(mean(x^2) + eps)` of every row, [S] float32."""
    _assert_contiguous(x_SD)
    out_S = torch.empty(len(x_SD), device=x_SD.device, dtype=torch.float32)
    _inverse_rms[(len(x_SD),)](x_SD, out_S, x_SD.shape[1], eps, **_row_shape(x_SD.shape[1]))
    return out_S


def cross_weights(q_SD: Tensor, inverse_rms_S: Tensor, keys_FHTK: Tensor, bias_T: Tensor) -> Tensor:
    """How much each row attends to each of a few keys of its latent frame, [S, H T]: the softmax of every head.

    `keys` carry the weight of the queries' norm; T is a power of two from 16 on.
    """
    frames, heads, keys, channels = keys_FHTK.shape
    count = len(q_SD)
    frame_rows = count // frames
    _assert_contiguous(q_SD, inverse_rms_S, keys_FHTK, bias_T)
    out = torch.empty(count, heads * keys, device=q_SD.device, dtype=q_SD.dtype)
    _cross_weights[(triton.cdiv(frame_rows, TILE_ROWS), heads, frames)](
        q_SD,
        inverse_rms_S,
        keys_FHTK,
        bias_T,
        out,
        frame_rows,
        heads,
        channels**-0.5,
        T=keys,
        K=channels,
        TILE=TILE_ROWS,
        num_warps=4,
    )
    return out


def turn_keys(still_NLhK: Tensor, cos_P: Tensor, sin_P: Tensor, *, out_NLhK: Tensor) -> None:
    """All keys by the same angles. Tokens and their heads are contiguous in both; `out` may be a slice of layers."""
    layers, tokens, heads, channels = still_NLhK.shape
    width = heads * channels
    _assert_contiguous(still_NLhK[0], out_NLhK[0], cos_P, sin_P)
    _turn_keys[(tokens, layers)](
        still_NLhK,
        out_NLhK,
        cos_P,
        sin_P,
        width,
        still_NLhK.stride(0),
        out_NLhK.stride(0),
        PAIRS=channels // 2,
        **_row_shape(width),
    )


def _assert_contiguous(*tensors: Tensor | None) -> None:
    assert all(tensor is None or tensor.is_contiguous() for tensor in tensors), "places are computed from sizes alone"


def _new_rows(like: Tensor, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    count = len(like)
    rows = torch.empty(count, width, device=like.device, dtype=dtype)
    return rows, torch.empty(count, 1, device=like.device, dtype=torch.float32) if dtype is FP8 else None


def _row_shape(width: int) -> dict[str, int]:
    block = triton.next_power_of_2(width)
    return {"BLOCK": block, "num_warps": 16 if width > WIDE_ROW else 8}


@triton.jit
def _store_row(values, place, scale_place, inside, IN_8_BITS: tl.constexpr):
    """Values to memory; in 8 bits with the scale that brings the largest to the end of the range."""
    if IN_8_BITS:
        largest = tl.maximum(tl.max(tl.abs(values), 0), _SMALLEST)
        tl.store(scale_place, largest / _LARGEST)
        values *= _LARGEST / largest
    tl.store(place, values.to(place.dtype.element_ty), mask=inside)


@triton.jit
def _normed(
    x_ptr,
    y_ptr,
    gate_ptr,
    scale_ptr,
    shift_ptr,
    rows_ptr,
    scales_ptr,
    width,
    frame_rows,
    eps,
    HAS_Y: tl.constexpr,
    HAS_GATE: tl.constexpr,
    IN_8_BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(x_ptr + row * width + column, mask=inside, other=0.0).to(tl.float32)
    if HAS_Y:
        y = tl.load(y_ptr + row * width + column, mask=inside, other=0.0).to(tl.float32)
        if HAS_GATE:
            y *= tl.load(gate_ptr + column, mask=inside, other=0.0).to(tl.float32)
        rounded = (x + y).to(x_ptr.dtype.element_ty)
        tl.store(x_ptr + row * width + column, rounded, mask=inside)
        x = rounded.to(tl.float32)
    centred = tl.where(inside, x - tl.sum(x, 0) / width, 0.0)
    h = centred * tl.rsqrt(tl.sum(centred * centred, 0) / width + eps)
    frame = (row // frame_rows) * width
    scale = tl.load(scale_ptr + frame + column, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + frame + column, mask=inside, other=0.0).to(tl.float32)
    _store_row(h * scale + shift, rows_ptr + row * width + column, scales_ptr + row, inside, IN_8_BITS)


@triton.jit
def _gelu(x_ptr, rows_ptr, scales_ptr, width, IN_8_BITS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(x_ptr + row * width + column, mask=inside, other=0.0).to(tl.float32)
    # tanh(u) = 2 sigmoid(2 u) - 1, with u = sqrt(2 / pi) (x + 0.044715 x^3)
    x *= tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
    _store_row(x, rows_ptr + row * width + column, scales_ptr + row, inside, IN_8_BITS)


@triton.jit
def _merged(o_ptr, rows_ptr, scales_ptr, width, part_width, part_stride, IN_8_BITS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    place = (column // part_width) * part_stride + row * part_width + column % part_width
    o = tl.load(o_ptr + place, mask=inside, other=0.0).to(tl.float32)
    _store_row(o, rows_ptr + row * width + column, scales_ptr + row, inside, IN_8_BITS)


@triton.jit
def _turned(x, cos_ptr, sin_ptr, PAIRS: tl.constexpr, BLOCK: tl.constexpr):
    """The interleaved pairs of every head, turned by the angles of its token."""
    even, odd = tl.split(tl.reshape(x, (BLOCK // 2, 2)))
    angle = tl.arange(0, BLOCK // 2) % PAIRS
    cos = tl.load(cos_ptr + angle)
    sin = tl.load(sin_ptr + angle)
    return tl.interleave(even * cos - odd * sin, even * sin + odd * cos)


@triton.jit
def _project(
    qkv_ptr,
    norm_q_ptr,
    norm_k_ptr,
    cos_ptr,
    sin_ptr,
    q_ptr,
    k_ptr,
    v_ptr,
    width,
    part_width,
    part_stride,
    eps,
    PAIRS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    which = tl.program_id(1)
    column = tl.arange(0, BLOCK)
    inside = column < width
    dtype = qkv_ptr.dtype.element_ty
    x = tl.load(qkv_ptr + (row * 3 + which) * width + column, mask=inside, other=0.0).to(tl.float32)
    out_ptr = v_ptr
    if which < 2:
        norm_ptr = norm_q_ptr
        out_ptr = q_ptr
        if which == 1:
            norm_ptr = norm_k_ptr
            out_ptr = k_ptr
        weight = tl.load(norm_ptr + column, mask=inside, other=0.0).to(tl.float32)
        x = (x * tl.rsqrt(tl.sum(x * x, 0) / width + eps)).to(dtype).to(tl.float32)
        x = (x * weight).to(dtype).to(tl.float32)
        x = _turned(x, cos_ptr + row * PAIRS, sin_ptr + row * PAIRS, PAIRS, BLOCK)
    place = (column // part_width) * part_stride + row * part_width + column % part_width
    tl.store(out_ptr + place, x.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _inverse_rms(x_ptr, out_ptr, width, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * width + column, mask=column < width, other=0.0).to(tl.float32)
    tl.store(out_ptr + row, tl.rsqrt(tl.sum(x * x, 0) / width + eps))


@triton.jit
def _cross_weights(
    q_ptr,
    inverse_rms_ptr,
    keys_ptr,
    bias_ptr,
    out_ptr,
    frame_rows,
    heads,
    score_scale,
    T: tl.constexpr,
    K: tl.constexpr,
    TILE: tl.constexpr,
):
    head = tl.program_id(1)
    frame = tl.program_id(2).to(tl.int64)
    row_of_frame = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = row_of_frame < frame_rows
    row = frame * frame_rows + row_of_frame
    channel = tl.arange(0, K)
    key = tl.arange(0, T)
    dtype = q_ptr.dtype.element_ty
    q = tl.load(q_ptr + row[:, None] * (heads * K) + head * K + channel[None, :], mask=inside[:, None], other=0.0)
    q = (q.to(tl.float32) * tl.load(inverse_rms_ptr + row, mask=inside, other=0.0)[:, None]).to(dtype)
    k = tl.load(keys_ptr + ((frame * heads + head) * T + key[None, :]) * K + channel[:, None])
    scores = tl.dot(q, k, input_precision="ieee") * score_scale + tl.load(bias_ptr + key).to(tl.float32)[None, :]
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None]
    place = row[:, None] * (heads * T) + head * T + key[None, :]
    tl.store(out_ptr + place, weights.to(dtype), mask=inside[:, None])


@triton.jit
def _turn_keys(
    still_ptr,
    out_ptr,
    cos_ptr,
    sin_ptr,
    width,
    still_stride,
    out_stride,
    PAIRS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    layer = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(still_ptr + layer * still_stride + token * width + column, mask=inside, other=0.0).to(tl.float32)
    x = _turned(x, cos_ptr, sin_ptr, PAIRS, BLOCK)
    tl.store(out_ptr + layer * out_stride + token * width + column, x.to(out_ptr.dtype.element_ty), mask=inside)
