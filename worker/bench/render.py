"""Times whole renders on one rank: sound and picture in, an MP4 on the disk, and how the rank got ready for it.

Knows the pipeline, and on rank 0 the writer at its end. The first render is short, that of a worker making itself
ready; then comes one for each number of steps, with the floor read before and after.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

import torch

from worker.bench import place as here
from worker.bench.figures import Start
from worker.bench.jobs import RowsJob
from worker.bench.ranks import Place, Say
from worker.bench.render_floor import RankFloor
from worker.bench.stand_ins import inputs_for, settings_for, weights_from, with_byte_tokenizer
from worker.bench.stopwatch import wait_for
from worker.bench.stretch import UNTIMED_BLOCKS, Found, Stretch
from worker.bench.video_file import written_video
from worker.pipeline.compute import Compute
from worker.pipeline.config import preset
from worker.pipeline.parallel import RankLayout
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.settings import RenderSettings

FIRST_RENDER_BLOCKS = 2
"""What a worker renders before it says that it is ready."""


@dataclass(frozen=True)
class _Rendered:
    """When a render began and when each block was handed to the writer, in seconds since 1970.

    Without blocks but on rank 0.
    """

    began_at: float
    blocks_at: tuple[float, ...]
    writing_ms: tuple[float, ...]
    """How long the writer held each block up."""
    ended_at: float


def measure(job: RowsJob, place: Place, say: Say) -> Found:
    """Raises `CannotMeasure`."""
    imported_at = time.time()
    with here.taken(place) as device:
        return _measure(job, place, device, say, imported_at)


def _measure(job: RowsJob, place: Place, device: torch.device, say: Say, imported_at: float) -> Found:
    config = preset(job.preset)
    if job.weights is None:
        config = with_byte_tokenizer(config)
    compute = Compute.on(device, precision=job.precision, memory=job.memory)
    layout = RankLayout(rank=place.rank, world_size=place.world_size)
    memory = here.PeakMemory(device)
    say(f"loading all networks of this rank ({job.precision}) on {place.device}")
    pipeline = Pipeline.create(config, layout=layout, compute=compute, weights=weights_from(job.weights))
    wait_for(device)
    loaded_at = time.time()
    settings = {
        steps: settings_for(
            config.dit, height=job.height, width=job.width, steps=steps, blocks=UNTIMED_BLOCKS + job.blocks
        )
        for steps in job.steps
    }
    first = _render(
        pipeline,
        settings_for(config.dit, height=job.height, width=job.width, steps=job.steps[0], blocks=FIRST_RENDER_BLOCKS),
        layout,
    )
    floor = RankFloor(config, height=job.height, width=job.width, compute=compute, layout=layout)
    here.together(place)
    with memory.left_out():
        floor.read()
    stretches, renders = [], []
    for steps in job.steps:
        say(f"render, {job.precision}, {steps} steps: {UNTIMED_BLOCKS} blocks to warm up, {job.blocks} that count")
        here.together(place)
        rendered = _render(pipeline, settings[steps], layout)
        peak_gib = memory.gib()
        here.together(place)
        with memory.left_out():
            floor.read()
        renders.append(rendered)
        stretches.append(_stretch(rendered, steps=steps, floor=floor, peak_gib=peak_gib))
    return Found(
        versions=here.versions(device, attention=floor.ways_to_attend),
        gpu=here.gpu_uuid(device),
        stretches=tuple(stretches),
        start=_start(place, imported_at=imported_at, loaded_at=loaded_at, first=first, next_render=renders[0])
        if layout.holds_encoders
        else None,
    )


def _render(pipeline: Pipeline, settings: RenderSettings, layout: RankLayout) -> _Rendered:
    """On all ranks; the file and the times are rank 0's."""
    began_at = time.time()
    blocks_at: list[float] = []
    writing_ms: list[float] = []
    if layout.holds_encoders:
        inputs = inputs_for(settings)
        with (
            written_video(settings) as video,
            closing(pipeline.render(settings, inputs=inputs, should_stop=lambda: False)) as blocks,
        ):
            began_at = time.time()
            for block in blocks:
                made_at = time.time()
                video.write(block.frames)
                blocks_at.append(time.time())
                writing_ms.append(1000 * (blocks_at[-1] - made_at))
            _check(block.frames.std())
    else:
        for _ in pipeline.render(settings, inputs=None, should_stop=lambda: False):
            raise AssertionError("frames come out of rank 0 only")
    return _Rendered(began_at=began_at, blocks_at=tuple(blocks_at), writing_ms=tuple(writing_ms), ended_at=time.time())


def _check(spread: float) -> None:
    """A time of wrong frames is no time."""
    if not spread > 0:
        raise ArithmeticError("the last frames are of one colour")


def _stretch(rendered: _Rendered, *, steps: int, floor: RankFloor, peak_gib: float) -> Stretch:
    moments = (rendered.began_at, *rendered.blocks_at)
    counted = rendered.blocks_at[UNTIMED_BLOCKS - 1 :]
    return Stretch(
        steps=steps,
        gaps_ms=tuple(1000 * (later - earlier) for earlier, later in pairwise(moments)),
        began_at=counted[0] if counted else rendered.began_at,
        ended_at=counted[-1] if counted else rendered.ended_at,
        floor=floor.of(steps=steps),
        peak_gib=peak_gib,
        writing_ms=rendered.writing_ms[UNTIMED_BLOCKS:],
    )


def _start(place: Place, *, imported_at: float, loaded_at: float, first: _Rendered, next_render: _Rendered) -> Start:
    first_block_at = first.blocks_at[0]
    return Start(
        import_s=imported_at - place.started_at,
        load_s=loaded_at - imported_at,
        first_block_s=first_block_at - loaded_at,
        warm_up_s=first.ended_at - first_block_at,
        from_process_start_to_first_block_s=first_block_at - place.started_at,
        from_process_start_to_ready_s=first.ended_at - place.started_at,
        first_block_of_next_render_s=next_render.blocks_at[0] - next_render.began_at,
    )
