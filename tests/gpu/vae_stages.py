"""Where the time of a block of the VAE goes, by kind of call and shape. Knows the decoder's layers from outside."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor

from worker.pipeline.vae_packed import decoder as layers
from worker.pipeline.vae_packed.rows import Cells, Frames, Pending, Products
from worker.pipeline.vae_packed.triton_rows import TritonRows

REPEATS = 5
AHEAD_CYCLES = 60_000_000
"""The device waits so long that the host is done with launching before it begins."""


@dataclass(frozen=True)
class Step:
    """One launch or a few, between two marks."""

    what: str
    flop: float
    moved: float
    before: torch.cuda.Event
    after: torch.cuda.Event


def print_stages(decode_block: Callable[[], object]) -> None:
    """Of a call that launches kernel by kernel, and has been made before."""
    steps: list[Step] = []
    with stages_recorded(steps):
        for _ in range(REPEATS):
            torch.cuda._sleep(AHEAD_CYCLES)
            decode_block()
    torch.cuda.synchronize()
    grouped: dict[str, list[Step]] = {}
    for step in steps:
        grouped.setdefault(step.what, []).append(step)
    total_ms = 0.0
    for what, same in sorted(grouped.items()):
        each_ms = statistics.median(step.before.elapsed_time(step.after) for step in same)
        calls = len(same) // REPEATS
        total_ms += calls * each_ms
        pace = f"{same[0].flop / each_ms / 1e9:5.0f} TFLOP/s " if same[0].flop else " " * 14
        pace += f"{same[0].moved / each_ms / 1e6:5.0f} GB/s"
        print(f"    {what:52} {calls:3} x {1000 * each_ms:7.1f} µs = {calls * each_ms:6.2f} ms  {pace}")
    print(f"    all of these {total_ms:.2f} ms", flush=True)


@contextmanager
def stages_recorded(steps: list[Step]) -> Iterator[None]:
    """Marks around everything that the decoder's layers call."""
    conv2d, linear, doubled, mm = layers._conv2d, layers._linear, layers._doubled, torch.mm
    attention = torch.nn.functional.scaled_dot_product_attention

    def timed(what: str, flop: float, call: Callable[[], object], *read: object) -> object:
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        made = call()
        after.record()
        steps.append(Step(what, flop, bytes_of(read) + bytes_of(made), before, after))
        return made

    def timed_conv2d(x: Tensor, weight: Tensor) -> object:
        flop = 2 * x.shape[0] * x.shape[1] * x.shape[2] * weight.numel()
        shape = f"{tuple(x.shape)} -> {weight.shape[0]}, {weight.shape[-1]} x {weight.shape[-1]}"
        return timed(f"convolution {shape}", flop, lambda: conv2d(x, weight), x, weight)

    def timed_linear(x: Tensor, given: layers.Linear) -> object:
        flop = 2 * x.shape[:-1].numel() * given.weight.numel()
        return timed(f"linear {tuple(x.shape)} -> {len(given.weight)}", flop, lambda: linear(x, given), x)

    def timed_doubled(x: Tensor, given: layers.TimeConv) -> object:
        flop = 4 * x.shape[:-1].numel() * given.halves[0].weight.numel()
        return timed(f"time convolution {tuple(x.shape)}", flop, lambda: doubled(x, given), x)

    def timed_attention(q: Tensor, k: Tensor, v: Tensor) -> object:
        flop = 4 * q.shape[0] * q.shape[2] ** 2 * q.shape[3]
        return timed(f"attention {tuple(q.shape)}", flop, lambda: attention(q, k, v), q, k, v)

    def timed_mm(a: Tensor, b: Tensor, *, out: Tensor) -> object:
        return timed(f"last product {tuple(b.shape)}", 2 * a.numel() * b.shape[1], lambda: mm(a, b, out=out), b)

    def timed_rows(name: str) -> Callable[..., object]:
        own = getattr(TritonRows, name)

        def call(self: TritonRows, x: object, *rest: Tensor) -> object:
            shape = str(tuple(x.shape)) if isinstance(x, Tensor) else described(x)
            caches = [tensor for tensor in rest if tensor.ndim == 4]
            read = (*tensors_in(x), *caches, *caches)  # which are written as well
            return timed(f"rows: {name} of {shape}", 0, lambda: own(self, x, *rest), *read)

        return call

    names = ("total", "normed", "activated", "taps", "pairs", "total_and_pairs", "bytes_of_pixels")
    patches = [
        mock.patch.object(layers, "_conv2d", timed_conv2d),
        mock.patch.object(layers, "_linear", timed_linear),
        mock.patch.object(layers, "_doubled", timed_doubled),
        mock.patch.object(layers.functional, "scaled_dot_product_attention", timed_attention),
        mock.patch.object(torch, "mm", timed_mm),
        *(mock.patch.object(TritonRows, name, timed_rows(name)) for name in names),
    ]
    for patch in patches:
        patch.start()
    try:
        yield
    finally:
        for patch in patches:
            patch.stop()


def described(x: object) -> str:
    assert isinstance(x, Pending)
    first = tensors_in(x)[0]
    kind = {Frames: "frames", Products: "products", Cells: "cells"}[type(x.source)]
    residual = " + residual" if x.residual is not None else ""
    return f"{kind}{residual} {tuple(first.shape)}"


def tensors_in(x: object) -> list[Tensor]:
    if isinstance(x, Tensor):
        return [x]
    assert isinstance(x, Pending)
    source = list(x.source.four) if isinstance(x.source, Products) else [x.source.values]
    return source + ([] if x.residual is None else [x.residual])


def bytes_of(made: object) -> float:
    if isinstance(made, Tensor):
        return made.numel() * made.element_size()
    return sum(bytes_of(each) for each in made) if isinstance(made, tuple | list) else 0
