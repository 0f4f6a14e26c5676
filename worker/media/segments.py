"""Where a video is cut into pieces that are encoded one by one, and what their files are called. Knows numbers only.

A long video is always cut, and always at the same places, so that its bytes are the same whether it was drawn in one go
or went on from pieces that an earlier attempt had made. A piece is whole seconds long: there the network's frames meet
those of any output rate, so that frames are repeated or left out as they would be in one go. It is also a multiple of
the distance of key frames, so no key frame is added.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from worker.media.timing import NATIVE_FPS, frames_for

SEGMENT_S = 10
SEGMENT_FRAMES = SEGMENT_S * NATIVE_FPS
"""At the network's rate."""

_VIDEO = re.compile(r"segment-(\d{5})\.mp4")


@dataclass(frozen=True)
class Segments:
    """The directory of a video's pieces, which its caller keeps, and how many of them are there already."""

    directory: Path
    made: int = 0


@dataclass(frozen=True)
class Segmentation:
    """The pieces of one video. The last one has what is left, at either rate."""

    frames: int
    """At the network's rate."""
    shown: int
    """At the output rate."""
    output_fps: int

    @classmethod
    def of(cls, duration_s: float, *, output_fps: int) -> Segmentation:
        return cls(
            frames=frames_for(duration_s, fps=NATIVE_FPS),
            shown=frames_for(duration_s, fps=output_fps),
            output_fps=output_fps,
        )

    @property
    def count(self) -> int:
        pieces = -(-self.frames // SEGMENT_FRAMES), -(-self.shown // self._shown_each)
        return min(pieces)  # a last piece has frames at both rates

    def frames_of(self, segment: int) -> int:
        return self.frames - segment * SEGMENT_FRAMES if segment == self.count - 1 else SEGMENT_FRAMES

    def shown_of(self, segment: int) -> int:
        return self.shown - segment * self._shown_each if segment == self.count - 1 else self._shown_each

    @property
    def _shown_each(self) -> int:
        return SEGMENT_S * self.output_fps


def segment_name(segment: int) -> str:
    return f"segment-{segment:05d}.mp4"


def latents_name(segment: int) -> str:
    """What the frames of a piece were decoded from, beside it."""
    return f"latents-{segment:05d}.safetensors"


def finished_segments(directory: Path) -> int:
    """How many pieces are there, without a gap from the first one on. A piece gets its name when it is whole."""
    numbers = {int(found[1]) for path in directory.iterdir() if (found := _VIDEO.fullmatch(path.name))}
    return next(number for number in range(len(numbers) + 1) if number not in numbers)
