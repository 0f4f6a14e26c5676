"""The next video's sound, prompt and picture, encoded while this one is drawn.

Knows the encoders and the one stream of a GPU on which they work beside the DiT; nothing of who draws, or when.

All that the encoders allocate there is used and given back there, also by the windows that are made later, in the
thread that draws. Only finished tensors pass to the stream of that thread, and the allocator is told so: else it could
give their memory to the next video's encoders while this one's DiT has yet to read it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor

from worker.pipeline.encoders import Encoded, Encoders
from worker.pipeline.settings import RenderInputs, RenderSettings


class EncodingAhead:
    """May be used from any thread; one encodes at a time, as the encoders keep things between their calls."""

    def __init__(self, encoders: Encoders, *, device: torch.device) -> None:
        self._encoders = encoders
        self._device = device
        self._one_at_a_time = threading.Lock()
        self._stream: torch.cuda.Stream | None = None  # one for good: the allocator keeps memory for each

    def encode(self, settings: RenderSettings, inputs: RenderInputs) -> Encoded:
        """As `Encoders.encode`, with all the sound read and the window of the first block made already."""
        with self._one_at_a_time:
            return (
                self._encode(settings, inputs) if self._device.type != "cuda" else self._encode_aside(settings, inputs)
            )

    def _encode(self, settings: RenderSettings, inputs: RenderInputs) -> Encoded:
        encoded = self._encoders.encode(settings, inputs)
        first = next(encoded.windows)
        return replace(encoded, windows=chain((first,), encoded.windows))

    def _encode_aside(self, settings: RenderSettings, inputs: RenderInputs) -> Encoded:
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call,unused-ignore]
        with torch.cuda.stream(self._stream):  # which also makes its device this thread's
            encoded = self._encode(settings, inputs)
            self._stream.synchronize()
        return replace(encoded, windows=_handed_over(encoded, self._stream))


def _handed_over(encoded: Encoded, aside: torch.cuda.Stream) -> Iterator[Tensor]:
    """Windows for the stream of the thread that asks for them."""
    here = torch.cuda.current_stream(aside.device)
    for tensor in (encoded.beginning.reference, encoded.beginning.prompt):
        if tensor.is_cuda:
            tensor.record_stream(here)
    while True:
        with torch.cuda.stream(aside):
            window = next(encoded.windows)  # there is always another
        here.wait_stream(aside)
        window.record_stream(here)
        yield window
