"""One video made here: files prepared, a group started, rendered, measured, and moved to its place.

Knows the rooms of the worker that know no queue. Whatever happens, no process stays and no half file is left.
"""

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from cli.bars import progress_bar
from cli.errors import CommandError, ExitCode
from infra.local.signals import StopRequestedError, stop_at_first_signal
from worker.gpus import Gpu
from worker.group.errors import GroupFailed, GroupRefused, RenderInterrupted, RenderRefused
from worker.group.group import Group, GroupSettings
from worker.group.request import RenderProgress, RenderRequest, RenderResult
from worker.layout import Goal, ImpossiblePlan, Order, Replica, plan
from worker.media.checking import Expected, check
from worker.media.drawn import NOT_DRAWN_MESSAGE
from worker.media.errors import FfmpegFailed, MediaError, OutputRejected
from worker.media.inputs import PictureFile, PreparedInputs, prepare
from worker.media.length import LengthPolicy
from worker.media.limits import MediaLimits
from worker.media.measure import measure
from worker.media.picture import ExactSize, SizePolicy
from worker.memory_needs import Demand
from worker.pipeline.audio_mode import AudioMode
from worker.pipeline.config import preset
from worker.pipeline.errors import ImpossibleLayout
from worker.pipeline.precision import MemoryUse, Precision
from worker.pipeline.prompt import USUAL_PROMPT
from worker.pipeline.rank_counts import check_picture, dit_ranks_of
from worker.pipeline.sink_rotation import SinkRotation

START_DEADLINE_S = 900.0
LOG_TAIL = 4_000


@dataclass(frozen=True)
class Wanted:
    """What was asked for on the command line."""

    audio: Path
    image: Path
    output: Path
    fps: int
    size: SizePolicy
    denoising_steps: int
    audio_mode: AudioMode
    sink_rotation: SinkRotation
    seed: int
    prompt: str | None
    preset: str
    weights: Path | None
    layout: str
    precision: Precision | None
    memory: MemoryUse


def render_file(wanted: Wanted, gpus: Sequence[Gpu]) -> None:
    """Raises `CommandError` for everything that a person can do something about."""
    _check(wanted)
    if isinstance(wanted.size, ExactSize):  # known before the files are read
        _replica(wanted, gpus, width=wanted.size.width, height=wanted.size.height)
    stop_at_first_signal()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="realvideo-render-") as directory,
            _terminal_for_us_alone(Path(directory) / "ranks.log") as console,
        ):
            _render(wanted, gpus, Path(directory), console)
    except StopRequestedError as error:
        raise CommandError("stopped; nothing is left behind.", exit_code=ExitCode.INTERRUPTED) from error
    except (MediaError, RenderRefused, OutputRejected, GroupRefused) as error:
        raise CommandError(f"{error.message} [{error.code}]") from error
    except (GroupFailed, RenderInterrupted) as error:
        raise CommandError(f"the render broke down: {error.message} [{error.code}]") from error
    except FfmpegFailed as error:
        raise CommandError(f"ffmpeg failed: {error}") from error


def _check(wanted: Wanted) -> None:
    for file in (wanted.audio, wanted.image):
        if not file.is_file():
            raise CommandError(f"there is no file {file}.", exit_code=ExitCode.USAGE)
    place = wanted.output.absolute().parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise CommandError(f"nothing can be written to {place}.", exit_code=ExitCode.USAGE)
    for file in (wanted.audio, wanted.image):
        if wanted.output.exists() and wanted.output.samefile(file):
            raise CommandError(f"--output would replace {file}: name another file.", exit_code=ExitCode.USAGE)


def _render(wanted: Wanted, gpus: Sequence[Gpu], directory: Path, console: Console) -> None:
    began = time.monotonic()
    inputs = prepare(
        wanted.audio,
        PictureFile(wanted.image),
        size=wanted.size,
        duration_s=None,
        length_policy=LengthPolicy.REJECT,
        limits=MediaLimits(),
        into=directory,
    )
    if preset(wanted.preset).drawn_portraits_only and not inputs.picture_is_drawn:
        console.print(NOT_DRAWN_MESSAGE, soft_wrap=True)
    replica, notes = _replica(wanted, gpus, width=inputs.width, height=inputs.height)
    for note in notes:
        console.print(note)
    request = _request(wanted, inputs, video=directory / "video.mp4")
    result = _in_a_group(wanted, request, replica, console)
    with console.status("measuring the video …"):
        seen = measure(result.video, sound=inputs.sound)
        check(seen, Expected(inputs.duration_s, fps=wanted.fps, width=inputs.width, height=inputs.height))
    _put(result.video, wanted.output)
    console.print(
        f"{wanted.output}: {seen.frames} frames, {seen.duration_s:.2f} s of video, "
        f"made in {time.monotonic() - began:.1f} s ({result.ms_per_block:.0f} ms per block)"
    )


def _request(wanted: Wanted, inputs: PreparedInputs, *, video: Path) -> RenderRequest:
    return RenderRequest(
        name=wanted.audio.name,
        speech=inputs.speech,
        picture=inputs.picture,
        sound=inputs.sound,
        video=video,
        prompt=wanted.prompt or USUAL_PROMPT,
        seed=wanted.seed,
        width=inputs.width,
        height=inputs.height,
        frames=inputs.frames,
        output_fps=wanted.fps,
        duration_s=inputs.duration_s,
        denoising_steps=wanted.denoising_steps,
        audio_mode=wanted.audio_mode,
        sink_rotation=wanted.sink_rotation,
    )


def _replica(wanted: Wanted, gpus: Sequence[Gpu], *, width: int, height: int) -> tuple[Replica, tuple[str, ...]]:
    """Which rank runs where, and what to say about it. Raises `CommandError`.

    What is impossible is refused before any rank loads anything.
    """
    order = Order(
        Demand(wanted.preset, wanted.precision, wanted.memory),
        layout=wanted.layout,
        goal=Goal.LATENCY,
        picture=(height, width),
    )
    try:
        made = plan(order, gpus)
        (replica,) = made.replicas
        check_picture(preset(wanted.preset).dit, parts=dit_ranks_of(replica.ranks), height=height, width=width)
    except ImpossiblePlan as error:
        raise CommandError(str(error), exit_code=ExitCode.USAGE) from error
    except ImpossibleLayout as error:
        raise CommandError(f"--ranks {replica.ranks} cannot be: {error}.", exit_code=ExitCode.USAGE) from error
    return replica, made.notes


def _in_a_group(wanted: Wanted, request: RenderRequest, replica: Replica, console: Console) -> RenderResult:
    ranks = replica.ranks
    settings = GroupSettings(
        preset=wanted.preset,
        ranks=ranks,
        gpus=replica.gpus,
        weights=wanted.weights,
        precision=wanted.precision,
        memory=wanted.memory,
        threads_per_rank=max(1, (os.cpu_count() or 1) // ranks),
        start_deadline_s=START_DEADLINE_S,
    )
    frames_per_block = preset(wanted.preset).dit.frames_per_block
    with contextlib.ExitStack() as stack:
        with console.status(f"starting {ranks} rank{'s' if ranks > 1 else ''} of the {wanted.preset} preset …"):
            group = stack.enter_context(Group(settings))
        bar = stack.enter_context(progress_bar(console, wanted.output.name))

        def show(progress: RenderProgress) -> None:
            bar.show(
                progress.phase,
                blocks_done=progress.blocks_done,
                blocks_total=progress.blocks_total,
                frames_per_block=frames_per_block,
            )

        return group.render(request, on_progress=show, should_cancel=lambda: False)


@contextlib.contextmanager
def _terminal_for_us_alone(log: Path) -> Iterator[Console]:
    """Our console, while whatever our children write to stderr goes to a file instead of into the progress bar.

    When a group fails, its last lines are shown: they hold what the message leaves out.
    """
    with os.fdopen(os.dup(2), "w") as terminal, log.open("wb") as quiet:
        sys.stderr.flush()
        os.dup2(quiet.fileno(), 2)
        try:
            yield Console(file=terminal, highlight=False)
        except GroupFailed:
            terminal.write(log.read_text(errors="replace")[-LOG_TAIL:])
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal.fileno(), 2)


def _put(video: Path, output: Path) -> None:
    """The whole file or none appears at its place, also from another disk. Raises `CommandError`."""
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        shutil.copyfile(video, unfinished)
        unfinished.replace(output)
    except OSError as error:
        raise CommandError(f"{output} cannot be written: {error.strerror}.") from error
    finally:
        unfinished.unlink(missing_ok=True)
