"""Times the DiT alone on one rank: blocks of a running stream, with the floor read before and after.

Knows how the DiT is driven (`DiTShare`, `Session`); no encoders, no VAE, no files. On several ranks the picture is cut
as in a render, but for the rank with the encoders, which is not there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from worker.bench import place as here
from worker.bench.ceilings import Ceiling, Pace, read_ceilings
from worker.bench.floor import dit_floor
from worker.bench.jobs import RowsJob
from worker.bench.probes import dit_probes
from worker.bench.ranks import Place, Say
from worker.bench.stand_ins import beginning, settings_for, weights_from, window
from worker.bench.stopwatch import stopwatch, wait_for
from worker.bench.stretch import UNTIMED_BLOCKS, Found, Stretch
from worker.bench.work import block_work
from worker.pipeline.compute import Compute
from worker.pipeline.config import DiTConfig, preset
from worker.pipeline.dit_share import DiTShare
from worker.pipeline.parallel import RankLayout, SequenceParallel, cut
from worker.pipeline.rank_counts import check_heads


def measure(job: RowsJob, place: Place, say: Say) -> Found:
    """Raises `CannotMeasure`."""
    with here.taken(place) as device:
        return _measure(job, place, device, say)


def _measure(job: RowsJob, place: Place, device: torch.device, say: Say) -> Found:
    config = preset(job.preset).dit
    compute = Compute.on(device, precision=job.precision, memory=job.memory)
    check_heads(config, parts=place.world_size)
    cut(config, height=job.height, width=job.width, parts=place.world_size)
    memory = here.PeakMemory(device)
    say(f"loading the DiT ({job.precision}) on {place.device}")
    share = _load(config, job, place, compute)
    readings = [_read(config, job, place, compute, memory)]
    stretches = []
    for steps in job.steps:
        say(f"DiT, {job.precision}, {steps} steps: {UNTIMED_BLOCKS} blocks to warm up, {job.blocks} that count")
        gaps_ms, began_at, ended_at = _blocks(share, config, job, steps, device)
        peak_gib = memory.gib()
        readings.append(_read(config, job, place, compute, memory))
        work = block_work(
            config,
            height=job.height,
            width=job.width,
            steps=steps,
            precision=job.precision,
            parts=place.world_size,
            full_bytes=compute.dtype.itemsize,
        )
        stretch = Stretch(
            steps=steps,
            gaps_ms=gaps_ms,
            began_at=began_at,
            ended_at=ended_at,
            floor=dit_floor(work, readings[-2:]),
            peak_gib=peak_gib,
        )
        say(f"DiT, {job.precision}, {steps} steps: {stretch.block_ms.median:.1f} ms per block")
        stretches.append(stretch)
    return Found(
        versions=here.versions(device, attention=ways_of("attention", readings[0])),
        gpu=here.gpu_uuid(device),
        stretches=tuple(stretches),
    )


def read_dit_ceilings(
    config: DiTConfig, *, height: int, width: int, compute: Compute, parts: int
) -> tuple[Ceiling, ...]:
    """How fast this device does the DiT's work alone. Raises `UnusablePrecision`."""
    work = block_work(config, height=height, width=width, steps=2, precision=compute.precision, parts=parts)
    return read_ceilings(dit_probes(work, compute=compute), device=compute.device, pace=Pace.on(compute.device))


def ways_of(name: str, reading: Sequence[Ceiling]) -> tuple[str, ...]:
    """What did the work of this name."""
    return tuple(ceiling.way for ceiling in reading if ceiling.name == name)


def _load(config: DiTConfig, job: RowsJob, place: Place, compute: Compute) -> DiTShare:
    """The layout is that of a group whose rank 0 holds the encoders, without that rank."""
    size = place.world_size
    group = None
    if size > 1:
        group = dist.new_group(list(range(size)), backend="nccl" if compute.device.type == "cuda" else "gloo")
        assert isinstance(group, dist.ProcessGroup), "a group of all ranks holds this one"
    layout = RankLayout.alone() if size == 1 else RankLayout(rank=place.rank + 1, world_size=size + 1)
    share = DiTShare.load(
        config,
        sequence=SequenceParallel(size=size, group=group),
        layout=layout,
        compute=compute,
        weights=weights_from(job.weights),
    )
    wait_for(compute.device)
    return share


def _read(
    config: DiTConfig, job: RowsJob, place: Place, compute: Compute, memory: here.PeakMemory
) -> tuple[Ceiling, ...]:
    """All ranks at once: they share power and cooling in the measurement as well."""
    here.together(place)
    with memory.left_out():
        return read_dit_ceilings(config, height=job.height, width=job.width, compute=compute, parts=place.world_size)


def _blocks(
    share: DiTShare, config: DiTConfig, job: RowsJob, steps: int, device: torch.device
) -> tuple[tuple[float, ...], float, float]:
    """Milliseconds of all blocks, and when those that count began and ended."""
    settings = settings_for(config, height=job.height, width=job.width, steps=steps, blocks=UNTIMED_BLOCKS + job.blocks)
    heard = window(config, device=device)
    session = share.begin(settings, beginning(config, height=job.height, width=job.width))
    watch = stopwatch(device)
    watch.mark()
    for block in range(UNTIMED_BLOCKS):
        session.make(block, window=heard)
        watch.mark()
    wait_for(device)
    began_at = time.time()
    for block in range(UNTIMED_BLOCKS, UNTIMED_BLOCKS + job.blocks):
        latents = session.make(block, window=heard)
        watch.mark()
    wait_for(device)
    ended_at = time.time()
    _check(latents)
    return tuple(watch.gaps_ms()), began_at, ended_at


def _check(latents: Tensor) -> None:
    """A time of wrong numbers is no time."""
    spread = latents.float().std().item()
    if not (torch.isfinite(latents).all() and spread > 0):
        raise ArithmeticError(f"the latents of the last block are not usable: their deviation is {spread}")
