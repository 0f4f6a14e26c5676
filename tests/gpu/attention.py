"""Each way of self-attention that this GPU has, held against float64 and timed: `python -m tests.gpu.attention`.

At the sizes of the 14b preset, 480 x 640, and of the tiny one. Random queries and keys, but the last keys of the cache
have large values: a kernel that loses the ragged end of the keys is far outside the limits.

Shapes: S queries, G keys, h heads, K channels of a head.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from tests.gpu.board import sampled
from worker.pipeline.dit.self_attend import OrderedTorchAttention, SelfAttend, choose_self_attend
from worker.pipeline.errors import UnusablePrecision
from worker.pipeline.precision import Precision

LIMITS = {torch.bfloat16: 1e-2, torch.float8_e4m3fn: 6e-2}
"""Relative L2 error of all rows together. The probabilities are rounded to the dtype of the values."""
WORST_ROW = 3
"""One row of one head may err by so many limits. A row that was left out errs by 1 / limit."""
HEAVY_KEYS, HEAVY = 8, 16
WARM_UP, TIMED = 5, 30


@dataclass(frozen=True)
class Case:
    name: str
    queries: int
    keys: int
    heads: int
    channels: int = 128

    @property
    def flop(self) -> int:
        return 4 * self.queries * self.keys * self.heads * self.channels


CASES = (
    Case("block", 2400, 6000, 40),
    Case("first block", 2400, 3600, 40),
    Case("reference", 1200, 1200, 40),
    Case("block, half the heads", 2400, 6000, 20),
    Case("tiny preset", 300, 750, 2, channels=16),
)


@dataclass(frozen=True)
class Way:
    attend: SelfAttend
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.attend.name}, {str(self.dtype).removeprefix('torch.')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.8, help="of sustained work for each row (0.8)")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no GPU here")
    device = torch.device("cuda", torch.cuda.current_device())
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    wrong = 0
    with torch.inference_mode():
        for way in _ways(device):
            for case in CASES:
                faults = _faults(way, case, device)
                print(f"{way!s:40} {case.name:22} {_times(way, case, device, seconds=arguments.seconds)}", flush=True)
                for fault in faults:
                    print(f"    WRONG: {fault}", flush=True)
                wrong += len(faults)
    sys.exit(f"{wrong} things are wrong" if wrong else 0)


def _ways(device: torch.device) -> Iterator[Way]:
    """Torch's own kernels, and what is chosen before them for each precision."""
    in_torch = OrderedTorchAttention()
    yield Way(in_torch, torch.bfloat16)
    chosen = choose_self_attend(device, Precision.FULL)
    print(f"the choice for {Precision.FULL}: {chosen.name}")
    if chosen.name != in_torch.name:
        yield Way(chosen, torch.bfloat16)
    try:
        yield Way(choose_self_attend(device, Precision.FP8_ATTENTION), torch.float8_e4m3fn)
    except UnusablePrecision as error:
        print(f"{Precision.FP8_ATTENTION}: {error}")


def _faults(way: Way, case: Case, device: torch.device) -> list[str]:
    """What is wrong with it, in words."""
    q_ShK, k_GhK, v_GhK = _inputs(case, way.dtype, device, seed=1)
    expected = _exact(q_ShK, k_GhK, v_GhK)
    faults = []
    spoiled = torch.full(q_ShK.shape, torch.nan, dtype=torch.bfloat16, device=device)
    del spoiled  # the allocator gives the same memory to the output, as it was left
    o_ShK = way.attend(q_ShK, k_GhK, v_GhK)
    if o_ShK.dtype is not torch.bfloat16 or o_ShK.shape != q_ShK.shape or not o_ShK.is_contiguous():
        faults.append(f"out come {o_ShK.dtype} {tuple(o_ShK.shape)} with strides {o_ShK.stride()}")
    faults += _distance_faults("eager", o_ShK, expected, limit=LIMITS[way.dtype])
    if not torch.equal(o_ShK, way.attend(q_ShK, k_GhK, v_GhK)):
        faults.append("a second call gives other values")
    torch.cuda.set_sync_debug_mode("error")
    try:
        way.attend(q_ShK, k_GhK, v_GhK)
    except RuntimeError as error:
        faults.append(f"it waits for the device: {error}")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return faults + _graph_faults(way, case, device, eager=o_ShK)


def _graph_faults(way: Way, case: Case, device: torch.device, *, eager: Tensor) -> list[str]:
    """A captured call has to read its inputs anew and to write all of its output."""
    inputs = _inputs(case, way.dtype, device, seed=2)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        o_ShK = way.attend(*inputs)
    for buffer, other in zip(inputs, _inputs(case, way.dtype, device, seed=1), strict=True):
        buffer.copy_(other)
    o_ShK.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize(device)
    return [] if torch.equal(o_ShK, eager) else ["a replayed graph gives other values than the call itself"]


def _inputs(case: Case, dtype: torch.dtype, device: torch.device, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, and keys and values as slices of a cache of several layers with more slots than are read."""
    draw = torch.Generator(device).manual_seed(seed)
    q_ShK = torch.randn(case.queries, case.heads, case.channels, generator=draw, device=device).to(dtype)
    cache_2NGhK = torch.randn(2, 2, case.keys + 100, case.heads, case.channels, generator=draw, device=device)
    cache_2NGhK[1, :, case.keys - HEAVY_KEYS : case.keys] *= HEAVY
    k_GhK, v_GhK = cache_2NGhK.to(dtype)[:, 1, : case.keys]
    return q_ShK, k_GhK, v_GhK


def _exact(q_ShK: Tensor, k_GhK: Tensor, v_GhK: Tensor) -> Tensor:
    """In float64, a head at a time, of the values as they were rounded."""
    out_ShK = torch.empty(q_ShK.shape, dtype=torch.float64, device=q_ShK.device)
    for head in range(q_ShK.shape[1]):
        q_SK, k_GK, v_GK = (x[:, head].double() for x in (q_ShK, k_GhK, v_GhK))
        out_ShK[:, head] = (q_SK @ k_GK.T * q_SK.shape[-1] ** -0.5).softmax(-1) @ v_GK
    return out_ShK


def _distance_faults(name: str, o_ShK: Tensor, expected: Tensor, *, limit: float) -> list[str]:
    off_ShK = o_ShK.double() - expected
    distance = (off_ShK.norm() / expected.norm()).item()
    worst = (off_ShK.norm(dim=-1) / expected.norm(dim=-1)).max().item()
    print(f"    {name}: relative error {distance:.2e}, worst row {worst:.2e}")
    faults = []
    if not distance < limit:  # a NaN is no success
        faults.append(f"{name}: relative error {distance:.2e}, at most {limit:g} expected")
    if not worst < WORST_ROW * limit:
        faults.append(f"{name}: worst row {worst:.2e}, at most {WORST_ROW * limit:g} expected")
    return faults


def _times(way: Way, case: Case, device: torch.device, *, seconds: float) -> str:
    """A cool burst, and a long run at the clock that the power limit leaves."""
    inputs = _inputs(case, way.dtype, device, seed=3)
    for _ in range(WARM_UP):
        way.attend(*inputs)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(TIMED + 1)]
    marks[0].record()
    for mark in marks[1:]:
        way.attend(*inputs)
        mark.record()
    marks[-1].synchronize()
    burst_ms = statistics.median(a.elapsed_time(b) for a, b in pairwise(marks))
    calls = max(TIMED, int(1000 * seconds / burst_ms))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        way.attend(*inputs)
    with sampled(device) as board:
        marks[0].record()
        for _ in range(calls):
            graph.replay()
        marks[1].record()
        marks[1].synchronize()
    long_ms = marks[0].elapsed_time(marks[1]) / calls
    burst, long = (f"{1000 * ms:6.0f} µs {case.flop / ms / 1e9:4.0f} TFLOP/s" for ms in (burst_ms, long_ms))
    return f"{burst}, over {calls} replays {long} at {board}"


if __name__ == "__main__":
    main()
