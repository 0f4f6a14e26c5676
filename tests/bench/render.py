"""How long a whole render takes on this machine's devices, with drawn weights: `python -m tests.bench.render --help`.

Times the pipeline itself (encoders, DiT, VAE), frames thrown away; no queue, no ffmpeg. One process per rank; on GPUs
rank r has GPU r. Prints the median time of a block, the time to the first one, and each rank's peak memory.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import multiprocessing

from worker.pipeline.checkpoint import RandomWeights
from worker.pipeline.compute import Compute
from worker.pipeline.config import AUDIO_SAMPLE_RATE, VIDEO_FPS, PipelineConfig, Tokenizer, preset
from worker.pipeline.parallel import RankLayout
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.settings import RenderInputs, RenderSettings

WARM_UP_BLOCKS = 3
"""Both slots of the ring and the short first block are behind us then."""


@dataclass(frozen=True)
class Work:
    preset: str
    ranks: int
    device: str
    width: int
    height: int
    seconds: float
    steps: int
    rounds: int


@dataclass(frozen=True)
class Round:
    """One render, as rank 0 saw it."""

    first_block_ms: float
    block_ms: float
    blocks: int
    frames: int
    mean_pixel: float
    pixel_deviation: float


@dataclass(frozen=True)
class RankReport:
    rank: int
    device: str
    load_s: float
    peak_memory_gib: float
    rounds: list[Round]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--width", type=int, default=480)
    parser.add_argument("--height", type=int, default=640)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of the sound")
    parser.add_argument("--steps", type=int, default=2, choices=[2, 4])
    parser.add_argument("--rounds", type=int, default=2, help="renders one after the other in the same warm processes")
    parser.add_argument("--json", type=Path, help="write what was measured here")
    arguments = parser.parse_args()
    out = arguments.json
    work = Work(**{name: value for name, value in vars(arguments).items() if name != "json"})
    with tempfile.TemporaryDirectory() as directory:
        multiprocessing.spawn(_rank, args=(work, directory), nprocs=work.ranks)
        reports = [json.loads((Path(directory) / f"{rank}.json").read_text()) for rank in range(work.ranks)]
    for report in reports:
        print(f"rank {report['rank']} on {report['device']}: loaded in {report['load_s']:.1f} s,", end=" ")
        print(f"peak memory {report['peak_memory_gib']:.1f} GiB")
    for number, done in enumerate(reports[0]["rounds"]):
        print(
            f"render {number}: first block after {done['first_block_ms']:.0f} ms, then {done['block_ms']:.1f} ms",
            end=" ",
        )
        print(f"per block ({done['blocks']} blocks, {done['frames']} frames,", end=" ")
        print(f"pixels {done['mean_pixel']:.0f} ± {done['pixel_deviation']:.0f})")
    if out is not None:
        out.write_text(json.dumps({"work": asdict(work), "ranks": reports}, indent=2))


def _rank(rank: int, work: Work, directory: str) -> None:
    device = torch.device("cpu") if work.device == "cpu" else torch.device("cuda", rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    layout = RankLayout(rank=rank, world_size=work.ranks)
    if work.ranks > 1:
        store = (Path(directory) / "store").as_uri()
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=work.ranks, timeout=layout.timeout)
    started = time.monotonic()
    pipeline = Pipeline.create(
        _without_files(preset(work.preset)),
        layout=layout,
        compute=Compute.on(device),
        weights=RandomWeights(0),
    )
    loaded = time.monotonic()
    rounds = [_render(pipeline, work, layout, seed=number) for number in range(work.rounds)]
    report = RankReport(
        rank=rank,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        load_s=loaded - started,
        peak_memory_gib=torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0,
        rounds=[done for done in rounds if done is not None],
    )
    (Path(directory) / f"{rank}.json").write_text(json.dumps(asdict(report)))
    if work.ranks > 1:
        dist.destroy_process_group()


def _without_files(config: PipelineConfig) -> PipelineConfig:
    """The same sizes, with the tokenizer that needs no files."""
    return replace(config, text=replace(config.text, tokenizer=Tokenizer.BYTES))


def _render(pipeline: Pipeline, work: Work, layout: RankLayout, *, seed: int) -> Round | None:
    """On rank 0 what was seen, on the others None."""
    settings = RenderSettings(
        height=work.height,
        width=work.width,
        frames=round(work.seconds * VIDEO_FPS),
        seed=seed,
        denoising_steps=work.steps,
        prompt="A character is talking.",
    )
    generator = np.random.default_rng(seed)
    inputs = RenderInputs(
        read_samples=lambda count: generator.standard_normal(count).astype(np.float32) * 0.1,
        total_samples=round(work.seconds * AUDIO_SAMPLE_RATE),
        image=generator.integers(0, 256, (work.height, work.width, 3), dtype=np.uint8),
    )
    began = time.monotonic()
    ends, frames, pixels = [], 0, np.zeros(0)
    for block in pipeline.render(settings, inputs=inputs if layout.holds_encoders else None, should_stop=lambda: False):
        ends.append(time.monotonic())
        frames += len(block.frames)
        pixels = block.frames
    if not ends:
        return None
    gaps = [later - earlier for earlier, later in pairwise(ends)][WARM_UP_BLOCKS:]
    return Round(
        first_block_ms=1000 * (ends[0] - began),
        block_ms=1000 * statistics.median(gaps),
        blocks=len(ends),
        frames=frames,
        mean_pixel=float(pixels.mean()),
        pixel_deviation=float(pixels.std()),
    )


if __name__ == "__main__":
    main()
