"""The decoder for pictures of one size: its caches, and the CUDA graph of a block.

Knows which calls repeat. A stream needs one of these for itself; the next stream of the same size may have it then, so
a graph is captured once per size and not once per video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from worker.pipeline.graph_pool import GraphPool
from worker.pipeline.vae_packed.decoder import PackedDecoder, Place

BLOCK = 2
"""Latent frames of the call that is captured: those of a block of the DiT."""

TRIES_CONVOLUTIONS = False
"""Whether cuDNN times its kernels at the first call of each shape, or chooses by rule."""


class SizedDecoder:
    """One stream's buffers. Without `captures` every call is launched kernel by kernel."""

    def __init__(
        self,
        decoder: PackedDecoder,
        *,
        denormalise: Callable[[Tensor], Tensor],
        size: tuple[int, int],
        pool: GraphPool | None,
        captures: bool,
    ) -> None:
        self.size = size
        self._decoder = decoder
        self._denormalise = denormalise
        self._caches = decoder.new_caches(*size)
        self._pool = pool
        self._captures = captures
        self._seen: Tensor | None = None
        self._captured: _Captured | None = None

    def restart(self) -> None:
        """The next call begins a stream."""
        torch._foreach_zero_(self._caches)

    @torch.no_grad()
    def decode(self, latents_cThw: Tensor, *, place: Place) -> Tensor:
        """Frames uint8 [n, H, W, 3], to be read before the next call."""
        repeats = place is Place.LATER and latents_cThw.shape[1] == BLOCK
        if repeats and self._captured is not None:
            return self._captured.replay(latents_cThw)
        if repeats and self._captures:
            self._seen = latents_cThw
        return self._frames(latents_cThw, place)

    def capture_if_due(self) -> None:
        """After the first call that will repeat, which has compiled what it launched. Waits for the device."""
        if self._captured is not None or self._seen is None:
            return
        latents_cThw, self._seen = self._seen.clone(), None
        self._captured = _Captured(lambda: self._frames(latents_cThw, Place.LATER), latents_cThw, pool=self._pool)

    @torch.no_grad()
    def decode_pixels(self, latents_cThw: Tensor, *, place: Place) -> Tensor:
        """Frames [n, H, W, 3] in -1 .. 1."""
        return self._decoder.rows.pixels(self._planes(latents_cThw, place), self._decoder.head_bias)

    def _frames(self, latents_cThw: Tensor, place: Place) -> Tensor:
        return self._decoder.rows.bytes_of_pixels(self._planes(latents_cThw, place), self._decoder.head_bias)

    def _planes(self, latents_cThw: Tensor, place: Place) -> Tensor:
        z_Thwc = self._denormalise(latents_cThw).permute(1, 2, 3, 0).contiguous()
        with choice_of_convolutions():
            return self._decoder.planes(z_Thwc, self._caches, place=place)


class _Captured:
    """A call as one CUDA graph, with the memory it reads and writes."""

    def __init__(self, call: Callable[[], Tensor], latents_cThw: Tensor, *, pool: GraphPool | None) -> None:
        """`call` reads `latents`, which belong to the graph from now on."""
        self._latents = latents_cThw
        self._graph = torch.cuda.CUDAGraph()
        # other threads of the process may allocate meanwhile
        handle = None if pool is None else pool.handle
        with torch.no_grad(), torch.cuda.graph(self._graph, pool=handle, capture_error_mode="thread_local"):
            self._frames = call()

    def replay(self, latents_cThw: Tensor) -> Tensor:
        self._latents.copy_(latents_cThw)
        self._graph.replay()
        return self._frames


@contextmanager
def choice_of_convolutions() -> Iterator[None]:
    """cuDNN chooses as `TRIES_CONVOLUTIONS` says, and elsewhere as before."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = TRIES_CONVOLUTIONS
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
