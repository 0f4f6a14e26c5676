"""Whether anything is compiled, recorded or allocated in mid-stream: `python -m tests.gpu.stalls --help`.

One rank of the 14b preset with drawn weights renders one video after the other: of one size, of another, of the first
again, and with a prompt too long to be folded. Of each: milliseconds to the first block and between blocks, how often
the device was asked for memory after the fourth. Exits with 1 when a block after the fourth took much longer than
the others, or, of a render like one before it, any block, or when that one asked for memory.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from worker.pipeline.checkpoint import RandomWeights
from worker.pipeline.compute import Compute
from worker.pipeline.config import AUDIO_SAMPLE_RATE, VIDEO_FPS, Tokenizer, preset
from worker.pipeline.parallel import RankLayout
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.precision import MemoryUse, Precision
from worker.pipeline.settings import RenderInputs, RenderSettings

SECONDS = 8.0
"""Sixteen blocks; the sink turns from the eleventh on."""
WARM_UP = 4
"""Blocks until every place of the ring was recorded, and played once."""
LONGEST = 1.15
"""Slowest block of a warm render in units of the median."""
SHORT, LONG = "A character is talking.", "A character is talking about the weather. " * 4


@dataclass(frozen=True)
class Case:
    name: str
    width: int = 480
    height: int = 640
    steps: int = 2
    prompt: str = SHORT
    is_warm: bool = True
    """One like it was rendered before, and nothing else since."""
    compiles: bool = False
    """Its stalls are in order."""


CASES = (
    Case("first of all, which compiles", compiles=True, is_warm=False),
    Case("same again"),
    Case("4 steps", steps=4, is_warm=False),
    Case("4 steps again", steps=4),
    Case("other size", width=640, height=480, is_warm=False),
    Case("first size again", is_warm=False),
    Case("long prompt", prompt=LONG, is_warm=False),
    Case("short prompt again", is_warm=False),
    Case("same again"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--precision", type=Precision, choices=Precision, default=Precision.FP8)
    parser.add_argument("--memory", type=MemoryUse, choices=MemoryUse, default=MemoryUse.AMPLE)
    parser.add_argument("--cases", type=int, default=len(CASES), help="only the first so many")
    arguments = parser.parse_args()
    config = preset("14b")
    pipeline = Pipeline.create(
        replace(config, text=replace(config.text, tokenizer=Tokenizer.BYTES)),
        layout=RankLayout.alone(),
        compute=Compute.on(torch.device("cuda"), precision=arguments.precision, memory=arguments.memory),
        weights=RandomWeights(0),
    )
    wrong = [case.name for case in CASES[: arguments.cases] if not _holds(case, pipeline)]
    print(f"{arguments.precision}, {arguments.memory} memory: peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    print(f"stalls in: {', '.join(wrong)}" if wrong else "no stall")
    return 1 if wrong else 0


def _holds(case: Case, pipeline: Pipeline) -> bool:
    settings = RenderSettings(
        height=case.height,
        width=case.width,
        frames=round(SECONDS * VIDEO_FPS),
        seed=0,
        denoising_steps=case.steps,
        prompt=case.prompt,
    )
    drawn = np.random.default_rng(0)
    inputs = RenderInputs(
        read_samples=lambda count: drawn.standard_normal(count).astype(np.float32) * 0.1,
        total_samples=round(SECONDS * AUDIO_SAMPLE_RATE),
        image=drawn.integers(0, 256, (case.height, case.width, 3), dtype=np.uint8),
    )
    began = time.monotonic()
    prepared = pipeline.prepare(settings, inputs)
    encoded = time.monotonic()
    ends, allocations = [], []
    for _ in pipeline.render(settings, inputs=prepared, should_stop=lambda: False):
        ends.append(time.monotonic())
        allocations.append(torch.cuda.memory_stats()["num_device_alloc"])
    gaps = [1000 * (later - earlier) for earlier, later in pairwise(ends)][:-1]  # the last one has no block behind it
    steady = gaps[WARM_UP:]
    typical, slowest = statistics.median(steady), max(gaps if case.is_warm else steady)
    is_even = case.compiles or slowest < LONGEST * typical
    allocated = allocations[-1] - allocations[WARM_UP]
    print(
        f"{case.name}: encoded in {1000 * (encoded - began):.0f} ms, first block {1000 * (ends[0] - encoded):.0f} ms "
        f"later, then {typical:.1f} ms per block, at most {slowest:.1f}; memory asked for {allocated} times",
        flush=True,
    )
    return is_even and not (case.is_warm and allocated)


if __name__ == "__main__":
    sys.exit(main())
