"""What a rank renders with: its share of the pipeline, and on rank 0 the files at both ends.

The only code of the group that knows torch and media files. Frames are written to the MP4 as they come, in the writer's
own thread, so the device never waits for ffmpeg.
"""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from PIL import Image

from worker.group.errors import GroupRefused, RenderCanceled, RenderInterrupted, RenderRefused
from worker.group.messages import DeviceReport, Launch
from worker.group.request import OnProgress, RenderPhase, RenderProgress, RenderRequest, RenderResult, ShouldCancel
from worker.media.errors import DiskFull, FfmpegFailed
from worker.media.mp4 import Mp4Writer
from worker.media.speech import SPEECH_RATE, SpeechFile
from worker.pipeline.checkpoint import CheckpointError, RandomWeights, ReleasedWeights, WeightSource
from worker.pipeline.compute import Compute
from worker.pipeline.config import preset
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
from worker.pipeline.rank_counts import check_heads
from worker.pipeline.settings import SIDE_MULTIPLE, RenderInputs, RenderSettings
from worker.pipeline.sound import ReadSamples, Samples, UnusableSound

CANARY_FRAMES = 13
"""Two blocks: the first of a stream, and one that is like all others."""
CANARY_SIZE_GPU = (640, 480)
CANARY_SIZE_CPU = (64, 64)
REPORT_EVERY_S = 1.0
PRESETS_WITHOUT_FILES = frozenset({"tiny"})
"""Their weights are drawn. Any other preset without files would ship noise."""
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

    def prove(self) -> None:
        """Render two blocks of nothing, so that a rank that says it is ready has done all that a job will ask of it.

        On a GPU at the usual size, which also compiles and tunes what the first job would have to wait for.
        """
        height, width = CANARY_SIZE_GPU if self._device.type == "cuda" else CANARY_SIZE_CPU
        unit = SIDE_MULTIPLE * self._layout.dit_size
        height, width = (-(-side // unit) * unit for side in (height, width))
        settings = RenderSettings(
            height=height, width=width, frames=CANARY_FRAMES, seed=0, denoising_steps=2, prompt="A canary."
        )
        inputs = RenderInputs(
            read_samples=lambda samples: np.zeros(samples, np.float32),
            total_samples=SPEECH_RATE,
            image=np.full((height, width, 3), 128, np.uint8),
        )
        mine = inputs if self._layout.holds_encoders else None
        for _ in self._pipeline.render(settings, inputs=mine, should_stop=lambda: False):
            pass

    def device(self) -> DeviceReport:
        if self._device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self._device)
            return DeviceReport(torch.cuda.get_device_name(self._device), total, total - free)
        return DeviceReport("cpu", psutil.virtual_memory().total, psutil.Process().memory_info().rss)

    def render(
        self, request: RenderRequest, *, on_progress: OnProgress, should_stop: ShouldCancel
    ) -> RenderResult | None:
        try:
            settings = RenderSettings(
                height=request.height,
                width=request.width,
                frames=request.frames,
                seed=request.seed,
                denoising_steps=request.denoising_steps,
                prompt=request.prompt,
                audio_mode=request.audio_mode,
                sink_rotation=request.sink_rotation,
            )
            self._pipeline.check(settings)
            if not self._layout.holds_encoders:
                for _ in self._pipeline.render(settings, inputs=None, should_stop=should_stop):
                    raise AssertionError("frames come out of rank 0 only")
                return None
            return self._render_to_file(request, settings, on_progress=on_progress, should_stop=should_stop)
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
        except DiskFull as error:
            raise RenderInterrupted("node_disk", str(error)) from error
        except FfmpegFailed as error:
            log.error("ffmpeg: %s", error)  # its own words name paths of this machine
            raise RenderInterrupted("ffmpeg_failed", "The video could not be written on the worker.") from error

    def _render_to_file(
        self, request: RenderRequest, settings: RenderSettings, *, on_progress: OnProgress, should_stop: ShouldCancel
    ) -> RenderResult:
        started = time.monotonic()
        on_progress(RenderProgress(RenderPhase.ENCODING, blocks_done=0, blocks_total=None))
        drawn_at, frames = [], 0
        with self._files(request, settings, on_progress) as (inputs, writer):
            # closed at once when the writer fails: the DiT ranks would go on for blocks that nobody takes
            with closing(self._pipeline.render(settings, inputs=inputs, should_stop=should_stop)) as blocks:
                for block in blocks:
                    writer.write(block.frames)
                    drawn_at.append(time.monotonic())
                    frames += len(block.frames)
                    on_progress(RenderProgress(RenderPhase.RENDERING, block.index + 1, block.blocks_total))
            with _growth_reported(request.video.parent, on_progress, blocks=len(drawn_at)):
                writer.finish()
        finished = time.monotonic()
        return RenderResult(
            video=request.video,
            frames=frames,
            blocks=len(drawn_at),
            gpu_seconds=(drawn_at[-1] - started) * self._layout.world_size,
            ms_per_block=1000 * _typical_gap(drawn_at, started=started),
            encoding_s=drawn_at[0] - started,
            rendering_s=drawn_at[-1] - drawn_at[0],
            muxing_s=finished - drawn_at[-1],
        )

    @contextmanager
    def _files(
        self, request: RenderRequest, settings: RenderSettings, on_progress: OnProgress
    ) -> Iterator[tuple[RenderInputs, Mp4Writer]]:
        """The files at both ends, open. Where one cannot be opened, the DiT ranks are told not to wait."""
        with ExitStack() as stack:
            try:
                speech = stack.enter_context(SpeechFile(request.speech))
                inputs = RenderInputs(
                    read_samples=_reported(speech.read, on_progress),
                    total_samples=speech.samples,
                    image=_pixels(request.picture),
                )
                writer = stack.enter_context(
                    Mp4Writer(
                        request.video,
                        width=request.width,
                        height=request.height,
                        output_fps=request.output_fps,
                        sound=request.sound,
                        duration_s=request.duration_s,
                    )
                )
            except BaseException:
                self._pipeline.decline(settings)
                raise
            yield inputs, writer


def _pixels(picture: Path) -> NDArray[np.uint8]:
    with Image.open(picture, formats=["PNG"]) as image:
        return np.array(image.convert("RGB"))


def _reported(read: ReadSamples, on_progress: OnProgress) -> ReadSamples:
    """Reading an hour of sound takes a while, and is progress."""
    last_at = time.monotonic()

    def read_and_report(samples: int) -> Samples:
        nonlocal last_at
        if time.monotonic() - last_at > REPORT_EVERY_S:
            last_at = time.monotonic()
            on_progress(RenderProgress(RenderPhase.ENCODING, blocks_done=0, blocks_total=None))
        return read(samples)

    return read_and_report


@contextmanager
def _growth_reported(directory: Path, on_progress: OnProgress, *, blocks: int) -> Iterator[None]:
    """While the block runs, changes of the files in `directory` are reported as progress of the muxing.

    The thread that reports is the only one that does: the caller waits in the block meanwhile.
    """
    done = threading.Event()

    def watch() -> None:
        seen = None
        while True:
            now = _files(directory)
            if now != seen:
                seen = now
                on_progress(RenderProgress(RenderPhase.MUXING, blocks_done=blocks, blocks_total=blocks))
            if done.wait(REPORT_EVERY_S):
                return

    watcher = threading.Thread(target=watch, name="muxing")
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _files(directory: Path) -> set[tuple[str, int, int]]:
    found = set()
    for path in directory.iterdir():
        with suppress(FileNotFoundError):  # renamed or removed meanwhile
            stat = path.stat()
            found.add((path.name, stat.st_size, stat.st_mtime_ns))
    return found


def _typical_gap(drawn_at: Sequence[float], *, started: float) -> float:
    """Seconds between two blocks of a running stream; of a single block, all it took."""
    gaps = [later - earlier for earlier, later in pairwise(drawn_at)]
    return statistics.median(gaps) if gaps else drawn_at[0] - started


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
    if launch.weights is not None:
        return ReleasedWeights(launch.weights)
    if launch.preset not in PRESETS_WITHOUT_FILES:
        raise GroupRefused("weights_missing", f"preset {launch.preset!r} needs a directory of weights")
    return RandomWeights(WEIGHTS_SEED)
