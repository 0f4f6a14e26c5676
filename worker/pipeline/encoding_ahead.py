"""The next video's sound, prompt and picture, encoded while this one is drawn.

Knows the encoders and the one stream on which they may work beside the DiT; nothing of who draws, or when.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain

import torch

from worker.pipeline.encoders import Encoded, Encoders
from worker.pipeline.settings import RenderInputs, RenderSettings


class EncodingAhead:
    """May be used from any thread; one encodes at a time, as the encoders keep things between their calls."""

    def __init__(self, encoders: Encoders, *, device: torch.device) -> None:
        self._encoders = encoders
        self._device = device
        self._one_at_a_time = threading.Lock()
        self._stream: torch.cuda.Stream | None = None

    def encode(self, settings: RenderSettings, inputs: RenderInputs) -> Encoded:
        """As `Encoders.encode`, with all the sound read and the window of the first block made already."""
        with self._one_at_a_time, self._aside():
            encoded = self._encoders.encode(settings, inputs)
            first = next(encoded.windows)
        return replace(encoded, windows=chain((first,), encoded.windows))

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """On a GPU, work of the block goes to a stream of its own and is done when the block ends.

        One stream for good, since the allocator keeps memory for each.
        """
        if self._device.type != "cuda":
            yield
            return
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):  # which also makes its device this thread's
            yield
            self._stream.synchronize()
