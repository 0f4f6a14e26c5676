"""The sound as the networks take it: mono, 16 kHz, float32, nothing else in the file. Knows this one file format."""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

SPEECH_RATE = 16_000
SAMPLE_BYTES = 4


class SpeechFile:
    """Reads a speech file from front to back in pieces, so that its length costs no memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.samples = path.stat().st_size // SAMPLE_BYTES

    @property
    def duration_s(self) -> float:
        return self.samples / SPEECH_RATE

    def __enter__(self) -> Self:
        self._file = self._path.open("rb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, count: int) -> NDArray[np.float32]:
        """The next samples, at most `count`, in -1…1; an empty array at the end."""
        return np.frombuffer(self._file.read(count * SAMPLE_BYTES), dtype="<f4").astype(np.float32)


def set_length(path: Path, *, samples: int) -> None:
    """Cut a speech file, or put silence behind it, so that it has exactly this many samples."""
    with path.open("r+b") as file:
        file.truncate(samples * SAMPLE_BYTES)  # the bytes that are added are zeros, and so are their samples
