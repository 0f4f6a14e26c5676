"""How near the DiT's row kernels come to the bandwidth of memory: `python -m tests.gpu.rows --help`.

Shapes of the 14b preset at 480 x 640. Bytes are those that have to be read and written once; what a row needs of
per-channel numbers comes from a cache and is not counted. Sets of inputs take turns, so nothing else does.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import triton

from worker.pipeline.dit import row_kernels
from worker.pipeline.dit.row_kernels import FP8

S, D, E, HEADS, CHANNELS = 2400, 5120, 13824, 40, 128
SETS = 6
"""Of inputs; together several times the cache of the chip."""

Work = Callable[[int], object]
"""Given which set of inputs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--warps", type=int, nargs="*", default=[], help="try these instead of the usual number")
    arguments = parser.parse_args()
    copied = torch.empty(2, 2**28, device="cuda")
    print(f"copy: {_rate(lambda _: copied[0].copy_(copied[1]), 2 * 2**30):.2f} TB/s")
    for name, (work, traffic) in _works().items():
        found = []
        for warps in arguments.warps or [0]:
            with _tried(warps):
                rate = _rate(work, traffic)
            found.append(f"{f'{warps} warps, ' * bool(warps)}{traffic / rate / 1e6:.1f} µs, {rate:.2f} TB/s")
        print(f"{name}: {'; '.join(found)}", flush=True)


def _works() -> dict[str, tuple[Work, int]]:
    def drawn(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.randn(SETS, *shape, device="cuda").to(dtype)

    x, y, u, qkv = drawn(S, D), drawn(S, D), drawn(S, E), drawn(S, 3 * D)
    o = x.view(SETS, 1, S, HEADS, CHANNELS)
    scale, shift, gate = (drawn(D, dtype=torch.float32)[0] for _ in range(3))
    cos, sin = (drawn(S, CHANNELS // 2, dtype=torch.float32)[0] for _ in range(2))
    q, k, v = (torch.empty(1, S, HEADS, CHANNELS, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    keys, bias = drawn(1, HEADS, 16, CHANNELS), torch.zeros(16, device="cuda")
    weight = scale.bfloat16()
    row, wide = S * D, S * E
    works: dict[str, tuple[Work, int]] = {}
    for kind, dtype, size in (("bf16", torch.bfloat16, 2), ("fp8", FP8, 1)):
        works[f"add, norm, {kind}"] = (
            lambda i, dtype=dtype: row_kernels.normed(x[i], y[i], gate, scale, shift, eps=1e-6, out_dtype=dtype),
            row * (6 + size),
        )
        works[f"GELU, {kind}"] = (
            lambda i, dtype=dtype: row_kernels.gelu(u[i], out_dtype=dtype),
            wide * (2 + size),
        )
    works["merge, fp8"] = (lambda i: row_kernels.merged(o[i], out_dtype=FP8), row * 3)
    works["project"] = (
        lambda i: row_kernels.project(qkv[i], weight, weight, cos, sin, eps=1e-6, q_PShK=q, k_PShK=k, v_PShK=v),
        row * 12,
    )
    works["inverse rms"] = (lambda i: row_kernels.inverse_rms(x[i], eps=1e-6), row * 2)
    inverse = torch.ones(S, device="cuda")
    works["cross weights"] = (
        lambda i: row_kernels.cross_weights(x[i], inverse, keys[i], bias),
        row * 2 + S * HEADS * 16 * 2,
    )
    return works


def _rate(work: Work, traffic: int) -> float:
    """TB/s, by the median over a recording of one call with each set of inputs."""
    for i in range(SETS):
        work(i)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(SETS):
            work(i)
    times = []
    for _ in range(20):
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        times.append(started.elapsed_time(ended) / SETS)
    return traffic / (statistics.median(times) * 1e-3) / 1e12


@contextmanager
def _tried(warps: int) -> Iterator[None]:
    usual = row_kernels._row_shape
    if warps:
        row_kernels._row_shape = lambda width: {"BLOCK": triton.next_power_of_2(width), "num_warps": warps}
    try:
        yield
    finally:
        row_kernels._row_shape = usual


if __name__ == "__main__":
    main()
