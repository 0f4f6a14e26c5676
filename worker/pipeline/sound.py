"""Sound on its way to the audio encoder: read once from front to back, kept aside, and normalised.

Knows samples only. Normalisation needs the mean and the variance of all samples before the first one is used, but the
sound is read only once and may last for hours. So it is kept as it is read: in memory while it is small, in a nameless
temporary file beyond that, in the directory of TMPDIR (specification, sections 9.1 and 13).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

ReadSamples = Callable[[int], Samples]
"""The next samples of a mono 16 kHz sound, at most as many as asked for; an empty array at its end."""

_AT_ONCE = 160_000
_IN_MEMORY_BYTES = 32 * 2**20
_VARIANCE_FLOOR = 1e-7


class UnusableSound(ValueError):
    """The samples are not what was announced, or are no numbers."""


def read_exactly(read_samples: ReadSamples, *, total_samples: int, at_once: int) -> Iterator[Samples]:
    """The whole sound in pieces of `at_once`, the last one shorter. Raises `UnusableSound`."""
    left = total_samples
    while left:
        wanted = min(at_once, left)
        pieces: list[Samples] = []
        while missing := wanted - sum(map(len, pieces)):
            piece = np.asarray(read_samples(missing), dtype=np.float32)
            if piece.ndim != 1 or len(piece) > missing:
                raise UnusableSound(f"asked for {missing} samples, got an array of shape {piece.shape}")
            if not len(piece):
                short = left - wanted + missing
                raise UnusableSound(f"the sound ends {short} samples before its {total_samples}")
            pieces.append(piece)
        samples = np.concatenate(pieces)
        if not np.isfinite(samples).all():
            raise UnusableSound("the sound holds samples that are not finite numbers")
        left -= wanted
        yield samples


def normalised(samples: Samples, *, mean: float, variance: float) -> Samples:
    """`(x - mean) / sqrt(variance + 1e-7)` (specification, section 9.1)."""
    scaled = (samples.astype(np.float64) - mean) / np.sqrt(variance + _VARIANCE_FLOOR)
    exact: Samples = scaled.astype(np.float32)
    return exact


class KeptSound:
    """A sound read to its end, with silence behind it up to `padded_samples`, of which any part can be asked for."""

    def __init__(self, read_samples: ReadSamples, *, total_samples: int, padded_samples: int) -> None:
        """Reads everything. Raises `UnusableSound` when the sound ends early or holds something not finite."""
        self._total = total_samples
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES)  # noqa: SIM115 - closed on exit
        try:
            total, squares = self._keep(read_samples)
        except BaseException:
            self._file.close()
            raise
        self._mean = total / padded_samples
        self._variance = max(squares / padded_samples - self._mean**2, 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def normalised(self, start: int, stop: int) -> Samples:
        """Samples `start` to `stop` with the mean and variance of the whole padded sound taken out."""
        self._file.seek(start * 4)
        held = np.frombuffer(self._file.read(max(0, min(stop, self._total) - start) * 4), dtype=np.float32)
        padded = np.pad(held, (0, stop - start - len(held)))
        return normalised(padded, mean=self._mean, variance=self._variance)

    def _keep(self, read_samples: ReadSamples) -> tuple[float, float]:
        total = squares = 0.0
        for samples in read_exactly(read_samples, total_samples=self._total, at_once=_AT_ONCE):
            self._file.write(samples.tobytes())
            exact = samples.astype(np.float64)
            total += float(exact.sum())
            squares += float(np.square(exact).sum())
        return total, squares
