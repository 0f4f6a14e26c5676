"""Calls at the DiT's real shapes whose speed makes its floor: products, self-attention, and a copy.

Knows the fastest ways that are installed to do each of them: PyTorch's linear and its 8-bit product with a scale for
each row, FlashAttention 3 where `flash_attn_interface` can be imported, and the attention backends of PyTorch. It does
not use the network's own kernels: a floor measured with them could hide their slowness.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from worker.bench.ceilings import Probe
from worker.bench.work import AttentionWork, BlockWork, Product
from worker.pipeline.compute import Compute
from worker.pipeline.errors import UnusablePrecision
from worker.pipeline.precision import Precision

FP8 = torch.float8_e4m3fn
FP8_MOST = 448.0
SPREAD_OVER_BYTES = 400_000_000
"""Operands of one probe together; several times the second-level cache of any GPU."""
COPIED_NUMBERS = {"cuda": 2**29, "cpu": 2**22}
WEIGHT_DEVIATION = 0.02

log = logging.getLogger(__name__)

Attend = Callable[[Tensor, Tensor, Tensor], object]
"""q [1, S, h, K], k and v [1, G, h, K]."""


def dit_probes(work: BlockWork, *, compute: Compute) -> Iterator[Probe]:
    """The largest product first. Raises `UnusablePrecision` where no backend can attend in 8-bit floats."""
    fp8 = compute.precision is not Precision.FULL
    for product in sorted(work.products, key=lambda one: -one.flop):
        yield _fp8_product(product, compute) if fp8 else _product(product, compute)
    yield from _attention(work.attention, compute)
    yield _copy(compute)


def _product(product: Product, compute: Compute) -> Probe:
    x = _random(product.rows, product.inputs, on=compute)
    weights = _copies(_random(product.outputs, product.inputs, on=compute) * WEIGHT_DEVIATION)
    bias = _random(product.outputs, on=compute)
    return Probe(
        name=product.name,
        shape=_shape(product),
        way=str(compute.dtype).removeprefix("torch."),
        amount=product.flop,
        call=lambda number: functional.linear(x, weights[number % len(weights)], bias),
    )


def _fp8_product(product: Product, compute: Compute) -> Probe:
    x, x_scale = _rounded(torch.randn(product.rows, product.inputs, device=compute.device))
    w, w_scale = _rounded(torch.randn(product.outputs, product.inputs, device=compute.device) * WEIGHT_DEVIATION)
    weights = _copies(w)
    bias = torch.randn(product.outputs, device=compute.device, dtype=torch.bfloat16)
    return Probe(
        name=product.name,
        shape=_shape(product),
        way="fp8, a scale for each row",
        amount=product.flop,
        call=lambda number: torch._scaled_mm(
            x,
            weights[number % len(weights)].t(),
            scale_a=x_scale,
            scale_b=w_scale.t(),
            bias=bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        ),
    )


def _attention(work: AttentionWork, compute: Compute) -> Iterator[Probe]:
    fp8 = compute.precision is Precision.FP8_ATTENTION
    q = _random(1, work.queries, work.heads, work.head_dim, on=compute)
    k, v = (_copies(_random(1, work.keys, work.heads, work.head_dim, on=compute)) for _ in range(2))
    if fp8:
        q, k, v = q.to(FP8), [one.to(FP8) for one in k], [one.to(FP8) for one in v]
    found = False
    for way, attend in _ways_to_attend(work, fp8=fp8, device=compute.device):
        try:
            attend(q, k[0], v[0])
        except RuntimeError as error:
            log.info("%s does not attend here: %s", way, str(error).partition("\n")[0])
            continue
        found = True
        yield Probe(
            name="attention",
            shape=f"{work.queries} × {work.keys}, {work.heads} heads of {work.head_dim}",
            way=f"{'fp8' if fp8 else str(compute.dtype).removeprefix('torch.')} {way}",
            amount=work.flop,
            call=lambda number, attend=attend: attend(q, k[number % len(k)], v[number % len(v)]),  # type: ignore[misc]
        )
    if not found:
        raise UnusablePrecision("nothing that is installed attends in 8-bit floats here: install flash_attn_interface")


def _ways_to_attend(work: AttentionWork, *, fp8: bool, device: torch.device) -> Iterator[tuple[str, Attend]]:
    if device.type == "cpu":
        yield "PyTorch", _attend_by(None)
        return
    if importlib.util.find_spec("flash_attn_interface") is not None:
        yield "FlashAttention 3", _flash_attention_3(work)
    if not fp8:
        yield "cuDNN", _attend_by(SDPBackend.CUDNN_ATTENTION)
        yield "PyTorch's flash", _attend_by(SDPBackend.FLASH_ATTENTION)


def _attend_by(backend: SDPBackend | None) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if backend is None:
            return functional.scaled_dot_product_attention(q, k, v)
        with sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(q, k, v)

    return attend


def _flash_attention_3(work: AttentionWork) -> Attend:
    interface: Any = importlib.import_module("flash_attn_interface")
    scale = work.head_dim**-0.5

    def attend(q: Tensor, k: Tensor, v: Tensor) -> object:
        made: object = interface.flash_attn_func(q, k, v, softmax_scale=scale, causal=False)
        return made

    return attend


def _copy(compute: Compute) -> Probe:
    numbers = COPIED_NUMBERS[compute.device.type]
    source = torch.randn(numbers, device=compute.device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    return Probe(
        name="traffic",
        shape=f"{source.nbytes / 1e9:.2f} GB",
        way="copy, read and written",
        amount=2.0 * source.nbytes,
        call=lambda _: target.copy_(source),
    )


def _random(*shape: int, on: Compute) -> Tensor:
    return torch.randn(shape, device=on.device, dtype=on.dtype)


def _rounded(x: Tensor) -> tuple[Tensor, Tensor]:
    """8-bit numbers and the scale of each row, [rows, 1]."""
    scale = x.abs().amax(dim=1, keepdim=True).float() / FP8_MOST
    return (x / scale).to(FP8), scale


def _copies(x: Tensor) -> list[Tensor]:
    return [x.clone() for _ in range(max(1, min(16, SPREAD_OVER_BYTES // x.nbytes)))]


def _shape(product: Product) -> str:
    return f"{product.rows} × {product.inputs} → {product.outputs}"
