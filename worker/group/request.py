"""A render as its caller sees it: what goes in and what comes out. Files are named, never carried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from worker.media.segments import Segments
from worker.pipeline.audio_mode import AudioMode
from worker.pipeline.sink_rotation import SinkRotation


@dataclass(frozen=True)
class RenderRequest:
    """One video to make, of inputs that were checked and prepared already."""

    name: str
    """No other render of its time has it: the job's id and attempt, or the file's name."""
    speech: Path
    """What the network listens to, as `worker.media.speech` has it."""
    picture: Path
    """The portrait, a PNG of `width` × `height` pixels."""
    sound: Path
    """The original sound as WAV, which becomes the video's sound track."""
    video: Path
    """Where to write the MP4; its directory exists."""
    prompt: str
    seed: int
    width: int
    height: int
    frames: int
    """Frames to draw, at the network's own rate."""
    output_fps: int
    duration_s: float
    """How long the video has to last."""
    denoising_steps: int
    audio_mode: AudioMode = AudioMode.WINDOWED
    sink_rotation: SinkRotation = SinkRotation.EXACT
    segments: Segments | None = None
    """Where finished pieces of a long video are put with their latents, and how many were made by an earlier attempt.
    None: nothing is kept."""

    @property
    def subject(self) -> str:
        """What all tries at one video have in common: the name up to its last dot."""
        return self.name.rpartition(".")[0] or self.name


@dataclass(frozen=True)
class RenderResult:
    video: Path
    frames: int
    """Frames drawn."""
    blocks: int
    gpu_seconds: float
    """Seconds that the ranks had for nothing else, until the last frame was drawn, times the number of ranks."""
    ms_per_block: float
    """Median time between two blocks once the stream runs."""
    encoding_s: float
    """From the order to draw until the first block was drawn."""
    rendering_s: float
    """From the first block to the last."""
    muxing_s: float
    """From the last block to the finished file."""


class RenderPhase(StrEnum):
    WAITING = "waiting"  # for its turn; told when the render before it moves
    ENCODING = "encoding"
    RENDERING = "rendering"
    MUXING = "muxing"


@dataclass(frozen=True)
class RenderProgress:
    phase: RenderPhase
    blocks_done: int
    blocks_total: int | None
    """None until the first block is drawn."""


OnProgress = Callable[[RenderProgress], None]
ShouldCancel = Callable[[], bool]
