"""What a rank draws with: its share of the pipeline, and on rank 0 the files at both ends.

The only code of the group that knows torch. Frames are written to the MP4 as they come, in the writer's own thread, and
the files of the videos before and after are dealt with in others, so the device never waits for ffmpeg.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import timedelta

import numpy as np
import psutil
import torch
import torch.distributed as dist

from worker.group.errors import GroupRefused, RenderCanceled, RenderRefused
from worker.group.finishing import Drawing, FileFinishing, file_faults_told
from worker.group.kept_latents import KeptLatents
from worker.group.messages import DeviceReport, Draw, Launch
from worker.group.preparation import Preparation, Prepared, settings_of
from worker.group.request import OnProgress, RenderPhase, RenderProgress, RenderRequest, ShouldCancel
from worker.media.speech import SPEECH_RATE
from worker.pipeline.checkpoint import BundledWeights, CheckpointError, RandomWeights, ReleasedWeights, WeightSource
from worker.pipeline.compute import Compute
from worker.pipeline.config import check_size, preset
from worker.pipeline.dit_clock import DiTSeconds, OnDiTWork
from worker.pipeline.errors import (
    ImpossibleLayout,
    InvalidRender,
    RenderAborted,
    RenderStopped,
    UnknownPreset,
    UnusablePrecision,
)
from worker.pipeline.parallel import RankLayout
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.prompt import USUAL_PROMPT
from worker.pipeline.rank_counts import check_heads
from worker.pipeline.settings import SIDE_MULTIPLE, RenderInputs, RenderSettings
from worker.pipeline.sound import UnusableSound
from worker.weights.catalog import BUNDLED, DRAWN_PRESETS

CANARY_FRAMES_CPU = {2: 13}
"""For 2 denoising steps two blocks: the first of a stream, and one that is like all others."""
CANARY_FRAMES_GPU = {2: 93, 4: 29}
"""All that a GPU has to compile or to record: twelve blocks, behind which the reference frame turns, and of four steps
every place of the ring."""
CANARY_SIZE_GPU = (640, 480)
CANARY_SIZE_CPU = (64, 64)
REPORT_EVERY_S = 1.0
WEIGHTS_SEED = 0

log = logging.getLogger(__name__)


def open_pipeline(launch: Launch) -> PipelineRenderer:
    """Join the other ranks and load this one's networks. Raises `GroupRefused` for what can never work."""
    torch.set_num_threads(launch.threads)
    device = _device(launch)
    layout = RankLayout(
        rank=launch.rank, world_size=launch.world_size, timeout=timedelta(seconds=launch.collective_timeout_s)
    )
    try:
        config = preset(launch.preset)
        check_heads(config.dit, parts=layout.dit_size)  # each rank by itself, before it waits for any other
        weights = _weights(launch)
        if layout.world_size > 1:
            dist.init_process_group(
                "gloo",
                init_method=launch.rendezvous.as_uri(),
                rank=layout.rank,
                world_size=layout.world_size,
                timeout=layout.timeout,
            )
        pipeline = Pipeline.create(
            config,
            layout=layout,
            compute=Compute.on(device, precision=launch.precision, memory=launch.memory),
            weights=weights,
        )
    except ImpossibleLayout as error:
        raise GroupRefused("impossible_layout", str(error)) from error
    except UnusablePrecision as error:
        raise GroupRefused("unusable_precision", str(error)) from error
    except UnknownPreset as error:
        raise GroupRefused("unknown_preset", str(error)) from error
    except CheckpointError as error:
        raise GroupRefused("weights_unusable", str(error)) from error
    renderer = PipelineRenderer(pipeline, layout=layout, device=device)
    renderer.prove()
    return renderer


class PipelineRenderer:
    """A `Renderer` over the real network."""

    def __init__(self, pipeline: Pipeline, *, layout: RankLayout, device: torch.device) -> None:
        self._pipeline = pipeline
        self._layout = layout
        self._device = device
        self._preparations: dict[str, Preparation] = {}

    def prove(self) -> None:
        """Render a little of nothing, so that a rank that says it is ready has done all that a job will ask of it.

        On a GPU at the usual size, or at all there are, which also compiles and records what the first job would have
        to wait for.
        """
        on_gpu = self._device.type == "cuda"
        for height, width in self._canary_sizes():
            self._prove(height=height, width=width, frames_by_steps=CANARY_FRAMES_GPU if on_gpu else CANARY_FRAMES_CPU)

    def _canary_sizes(self) -> Sequence[tuple[int, int]]:
        """Height and width in pixels, of pictures that these ranks can share."""
        on_gpu = self._device.type == "cuda"
        if self._pipeline.config.picture_sizes:
            known = [(height, width) for width, height in self._pipeline.config.picture_sizes]
            return known if on_gpu else known[-1:]
        unit = SIDE_MULTIPLE * self._layout.dit_size
        height, width = (-(-side // unit) * unit for side in (CANARY_SIZE_GPU if on_gpu else CANARY_SIZE_CPU))
        return [(height, width)]

    def _prove(self, *, height: int, width: int, frames_by_steps: Mapping[int, int]) -> None:
        for steps, frames in frames_by_steps.items():
            settings = RenderSettings(
                height=height, width=width, frames=frames, seed=0, denoising_steps=steps, prompt=USUAL_PROMPT
            )
            inputs = RenderInputs(
                read_samples=lambda samples: np.zeros(samples, np.float32),
                total_samples=SPEECH_RATE,
                image=np.full((height, width, 3), 128, np.uint8),
            )
            mine = self._pipeline.prepare(settings, inputs) if self._layout.holds_encoders else None
            for _ in self._pipeline.render(settings, inputs=mine, should_stop=lambda: False):
                pass

    def device(self) -> DeviceReport:
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            return DeviceReport(torch.cuda.get_device_name(self._device), total, total - free)
        return DeviceReport("cpu", psutil.virtual_memory().total, psutil.Process().memory_info().rss)

    def prepare(self, request: RenderRequest) -> None:
        self._preparations[request.name] = Preparation(request, encode=self._pipeline.prepare)

    def forget(self, name: str) -> None:
        preparation = self._preparations.pop(name, None)
        if preparation is not None:
            preparation.drop()

    def draw(
        self, draw: Draw, *, on_progress: OnProgress, on_dit: OnDiTWork, should_stop: ShouldCancel
    ) -> FileFinishing | None:
        dit = _DiTReports(on_dit)
        try:
            settings = settings_of(draw.request)
            check_size(self._pipeline.config, width=settings.width, height=settings.height)
            self._pipeline.check(settings)
            self._pipeline.clock.begin(wanted_since=draw.wanted_since, on_work=dit.note)
            if not self._layout.holds_encoders:
                for _ in self._pipeline.render(settings, inputs=None, should_stop=should_stop):
                    raise AssertionError("frames come out of rank 0 only")
                return None
            return self._draw_to_file(draw.request, settings, on_progress=on_progress, should_stop=should_stop)
        except RenderStopped as stopped:
            raise RenderCanceled(str(stopped)) from stopped
        except RenderAborted:
            return None  # rank 0 says why
        except ImpossibleLayout as error:
            raise RenderRefused(
                "impossible_layout", f"The {self._layout.world_size} ranks of this node cannot share the video: {error}"
            ) from error
        except (InvalidRender, UnusableSound) as error:
            raise RenderRefused("invalid_render", f"The video cannot be rendered: {error}") from error
        finally:
            self.forget(draw.request.name)  # when it ended before it was begun
            dit.tell()

    def _draw_to_file(
        self, request: RenderRequest, settings: RenderSettings, *, on_progress: OnProgress, should_stop: ShouldCancel
    ) -> FileFinishing:
        started = time.monotonic()
        drawn_at: list[float] = []
        frames = 0
        with file_faults_told():
            prepared = self._prepared(request, settings, on_progress=on_progress, should_stop=should_stop)
            kept = None if request.segments is None else KeptLatents(request.segments.directory)
            first = prepared.encoded.beginning.first_block
            if first:
                log.info("%s goes on at block %d", request.name, first)

            def should_stop_now() -> bool:
                """Asked at every block border, also of blocks that are replayed before the first one is drawn."""
                if first and not drawn_at:
                    on_progress(RenderProgress(RenderPhase.ENCODING, blocks_done=0, blocks_total=None))
                return should_stop()

            try:
                # closed at once when the writer fails: the DiT ranks would go on for blocks that nobody takes
                with closing(
                    self._pipeline.render(settings, inputs=prepared.encoded, should_stop=should_stop_now)
                ) as blocks:
                    known = prepared.frames_known
                    for block in blocks:
                        if kept is not None:
                            kept.keep(block)
                        prepared.writer.write(block.frames[known:])
                        known = 0
                        drawn_at.append(time.monotonic())
                        frames += len(block.frames)
                        on_progress(RenderProgress(RenderPhase.RENDERING, block.index + 1, block.blocks_total))
            except BaseException:
                prepared.files.close()
                raise
        drawing = Drawing(started=started, drawn_at=drawn_at, frames=frames, ranks=self._layout.world_size)
        return FileFinishing(request, prepared=prepared, drawing=drawing)

    def _prepared(
        self, request: RenderRequest, settings: RenderSettings, *, on_progress: OnProgress, should_stop: ShouldCancel
    ) -> Prepared:
        """Made ahead, or now. Where it cannot be made, the DiT ranks are told not to wait."""

        def tell_progress() -> None:
            on_progress(RenderProgress(RenderPhase.ENCODING, blocks_done=0, blocks_total=None))

        def stop_when_asked() -> None:
            if should_stop():
                raise RenderStopped(block=0)

        tell_progress()
        preparation = self._preparations.pop(request.name, None) or Preparation(request, encode=self._pipeline.prepare)
        try:
            return preparation.take(on_moved=tell_progress, may_go_on=stop_when_asked)
        except BaseException:
            preparation.drop()
            self._pipeline.decline(settings)
            raise


class _DiTReports:
    """Passes the time of the DiT on: at the first work on a video, then every now and then, and in the end."""

    def __init__(self, on_dit: OnDiTWork) -> None:
        self._on_dit = on_dit
        self._seconds: DiTSeconds | None = None
        self._told_at = float("-inf")

    def note(self, seconds: DiTSeconds) -> None:
        self._seconds = seconds
        if time.monotonic() - self._told_at >= REPORT_EVERY_S:
            self.tell()

    def tell(self) -> None:
        if self._seconds is not None:
            self._told_at = time.monotonic()
            self._on_dit(self._seconds)


def _device(launch: Launch) -> torch.device:
    wants_cuda = launch.device == "cuda" or (launch.device == "auto" and torch.cuda.is_available())
    if not wants_cuda and launch.gpu is None:
        return torch.device("cpu")
    index = launch.rank if launch.gpu is None else launch.gpu
    if index >= torch.cuda.device_count():
        raise GroupRefused(
            "too_few_devices",
            f"rank {launch.rank} of {launch.world_size} is to run on GPU {index}, and PyTorch {torch.__version__} "
            f"finds {torch.cuda.device_count()}",
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def _weights(launch: Launch) -> WeightSource:
    if launch.preset in BUNDLED:
        return BundledWeights(BUNDLED[launch.preset])
    if launch.weights is not None:
        return ReleasedWeights(launch.weights)
    if launch.preset not in DRAWN_PRESETS:
        raise GroupRefused(
            "weights_missing",
            f"preset {launch.preset!r} needs a directory of weights: fetch them with `realvideo weights pull "
            "--directory DIRECTORY` and name the directory (REALVIDEO_WEIGHTS)",
        )
    return RandomWeights(WEIGHTS_SEED)
