"""Streams of the packed decoder: latents cut into calls, and frames handed over to the host beside the computing.

Knows what a stream keeps from call to call and whose buffers it uses, nothing of layers. All waiting is the device's;
the host waits in `wait` only.

Shapes: c latent channels, T latent frames, n pixel frames, h x w latent cells, H = 8h, W = 8w.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.pipeline.config import FRAMES_PER_LATENT
from worker.pipeline.dit.kernels import exact_dtype
from worker.pipeline.graph_pool import GraphPool
from worker.pipeline.precision import MemoryUse
from worker.pipeline.vae_packed.decoder import PackedDecoder, Place
from worker.pipeline.vae_packed.sized_decoder import BLOCK, SizedDecoder
from worker.pipeline.vae_stream import FramesOnTheWay, FramesThere, check_latents

LATENTS_AT_ONCE = {MemoryUse.AMPLE: BLOCK, MemoryUse.LOW: 1}
"""Latent frames in one call."""

Denormalise = Callable[[Tensor], Tensor]
"""From latents [c, T, h, w] of the DiT to those of the decoder."""


class PackedStreams:
    """One device's decoder and the buffers of its streams. With ample memory those of the last size are kept."""

    def __init__(
        self,
        decoder: PackedDecoder,
        *,
        denormalise: Denormalise,
        device: torch.device,
        memory: MemoryUse,
        graph_pool: GraphPool | None = None,
    ) -> None:
        """`graph_pool` may be shared with graphs that never run at the same time."""
        self._decoder = decoder
        self._denormalise = denormalise
        self._device = device
        self._memory = memory
        self._pool = graph_pool
        self._copying = _beside(device)
        self._free: list[SizedDecoder] = []

    def on_device(self) -> AbstractContextManager[object]:
        """Kernels and graphs go to the current CUDA device."""
        return nullcontext() if self._copying is None else torch.cuda.device(self._device)

    def new(self) -> PackedStream:
        """A new video."""
        return PackedStream(self)

    def take(self, height: int, width: int) -> SizedDecoder:
        """Buffers for latents of this size, as at the beginning of a stream, until `give_back`."""
        self._free = [sized for sized in self._free if sized.size == (height, width)]
        sized = self._free.pop() if self._free else self._make(height, width)
        sized.restart()
        return sized

    def give_back(self, sized: SizedDecoder) -> None:
        """Buffers that no stream uses any more."""
        if self._memory is MemoryUse.AMPLE:
            self._free = [sized]

    def pieces(self, latents_cThw: Tensor, *, place: Place) -> Iterator[tuple[Tensor, Place]]:
        """The calls that latents are decoded in, from `place` on; on the device, and exact."""
        latents_cThw = latents_cThw.to(self._device, exact_dtype(latents_cThw.dtype), non_blocking=True)
        if place is Place.FIRST:
            yield latents_cThw[:, :1], Place.FIRST
            latents_cThw = latents_cThw[:, 1:]
        at_once = LATENTS_AT_ONCE[self._memory]
        for t in range(0, latents_cThw.shape[1], at_once):
            yield latents_cThw[:, t : t + at_once], Place.LATER

    def hand_over(self, made: Iterator[Tensor], *, frames: int) -> FramesOnTheWay:
        """Frames [n, H, W, 3] to the host, piece by piece; the next piece is made when the last one is copied."""
        if self._copying is None:
            return FramesThere(torch.cat(list(made)).numpy())
        return self._copy_beside(self._copying, made, frames)

    def _make(self, height: int, width: int) -> SizedDecoder:
        return SizedDecoder(
            self._decoder,
            denormalise=self._denormalise,
            size=(height, width),
            pool=self._pool,
            captures=self._device.type == "cuda" and self._memory is MemoryUse.AMPLE,
        )

    def _copy_beside(self, copying: torch.cuda.Stream, made: Iterator[Tensor], frames: int) -> FramesOnTheWay:
        computing = torch.cuda.current_stream()
        computing.wait_stream(copying)
        pinned: Tensor | None = None
        done = 0
        for piece in made:
            if pinned is None:
                pinned = torch.empty((frames, *piece.shape[1:]), dtype=piece.dtype, pin_memory=True)
            copying.wait_stream(computing)
            with torch.cuda.stream(copying):
                pinned[done : done + len(piece)].copy_(piece, non_blocking=True)
            piece.record_stream(copying)
            done += len(piece)
            if done < frames:
                computing.wait_stream(copying)
        assert pinned is not None, "there is at least one latent frame"
        there = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call,unused-ignore]
        there.record(copying)
        return CopiedFrames(pinned, there)


class PackedStream:
    """A `DecodeStream`. Its buffers go back when nobody holds it any more."""

    def __init__(self, streams: PackedStreams) -> None:
        self._streams = streams
        self._sized: SizedDecoder | None = None
        self._place = Place.FIRST

    def begin(self, latents_cThw: Tensor) -> FramesOnTheWay:
        """As `DecodeStream.begin`."""
        with self._streams.on_device():
            sized = self._for(latents_cThw)
            alone = FRAMES_PER_LATENT - 1 if self._place is Place.FIRST else 0
            frames = FRAMES_PER_LATENT * latents_cThw.shape[1] - alone
            made = (sized.decode(piece, place=place) for piece, place in self._next(latents_cThw))
            on_the_way = self._streams.hand_over(made, frames=frames)
            sized.capture_if_due()
        return on_the_way

    def decode(self, latents_cThw: Tensor) -> NDArray[np.uint8]:
        """As `DecodeStream.decode`."""
        return self.begin(latents_cThw).wait()

    def decode_pixels(self, latents_cThw: Tensor) -> Tensor:
        """As `DecodeStream.decode_pixels`; without graphs, in float32."""
        with self._streams.on_device():
            sized = self._for(latents_cThw)
            made = [sized.decode_pixels(piece, place=place) for piece, place in self._next(latents_cThw)]
            return torch.cat(made).permute(3, 0, 1, 2)

    def _for(self, latents_cThw: Tensor) -> SizedDecoder:
        check_latents(latents_cThw)
        height, width = latents_cThw.shape[2:]
        if self._sized is None:
            self._sized = self._streams.take(height, width)
            weakref.finalize(self, self._streams.give_back, self._sized).atexit = False
        if self._sized.size != (height, width):
            raise ValueError(f"latents of {height} x {width} cells in a stream of {self._sized.size}")
        return self._sized

    def _next(self, latents_cThw: Tensor) -> Iterator[tuple[Tensor, Place]]:
        place, self._place = self._place, Place.LATER
        return self._streams.pieces(latents_cThw, place=place)


@dataclass(frozen=True)
class CopiedFrames:
    """Frames in pinned memory, which PyTorch takes again for others when the last array of it is gone."""

    pinned: Tensor
    there: torch.cuda.Event

    def wait(self) -> NDArray[np.uint8]:
        """As `FramesOnTheWay.wait`."""
        self.there.synchronize()
        frames: NDArray[np.uint8] = self.pinned.numpy()
        return frames


def _beside(device: torch.device) -> torch.cuda.Stream | None:
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call,unused-ignore]
