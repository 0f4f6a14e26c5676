"""Numbers from files to where they belong, as fast as the disk gives them.

Knows byte ranges and devices; nothing of names, formats or networks. A few threads read ahead of whoever takes the
tensors. On a processor they read straight into a tensor's own memory; for a GPU each has a page-locked piece of memory
that it reads into and copies from, so the host never holds more than those pieces. Reads go through the system's page
cache, so of several ranks that load the same file only the first waits for the disk.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

READERS = 4
PIECE_BYTES = 32 * 2**20
AHEAD_BYTES = 512 * 2**20
"""Of tensors that are being read and were not taken yet."""

ReadInto = Callable[[Tensor, int], None]
"""Fills a one-dimensional uint8 tensor of the host from so many bytes behind the start of the tensor's numbers."""


@dataclass(frozen=True)
class Stored:
    """A tensor that lies somewhere."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read_into: ReadInto


def stream(wanted: Iterable[Stored], *, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Each tensor with its name, in the order given, in memory of its own on `device`.

    Raises what a `ReadInto` raises. Whoever breaks off leaves no thread behind.
    """
    land = _Pinned(device).land if device.type == "cuda" else _land_on_host
    with ThreadPoolExecutor(READERS, thread_name_prefix="weights") as readers:
        under_way: deque[tuple[str, Tensor, list[Future[None]]]] = deque()
        ahead = 0
        try:
            for one in wanted:
                tensor = torch.empty(one.shape, dtype=one.dtype, device=device)
                under_way.append((one.name, tensor, _begin(one, tensor, readers, land)))
                ahead += tensor.nbytes
                while ahead > AHEAD_BYTES:
                    name, arrived = _arrival(under_way)
                    ahead -= arrived.nbytes
                    yield name, arrived
            while under_way:
                yield _arrival(under_way)
        finally:
            readers.shutdown(cancel_futures=True)


Land = Callable[[Tensor, ReadInto, int, "torch.cuda.Event | None"], None]
"""Bytes of a place, from behind the start, into a piece of a tensor, once the event has happened."""


def _begin(one: Stored, tensor: Tensor, readers: ThreadPoolExecutor, land: Land) -> list[Future[None]]:
    if tensor.numel() == 0:
        return []
    is_free = None
    if tensor.device.type == "cuda":
        # the allocator gives out memory that earlier work of this stream may still be reading
        is_free = torch.cuda.Event()  # type: ignore[no-untyped-call,unused-ignore]
        is_free.record(torch.cuda.current_stream(tensor.device))
    target = tensor.reshape(-1).view(torch.uint8)
    return [
        readers.submit(land, target[start : start + PIECE_BYTES], one.read_into, start, is_free)
        for start in range(0, len(target), PIECE_BYTES)
    ]


def _arrival(under_way: deque[tuple[str, Tensor, list[Future[None]]]]) -> tuple[str, Tensor]:
    """The first tensor under way, whole. A read ends or fails when the file system lets it, so there is no limit."""
    name, tensor, pieces = under_way.popleft()
    for piece in pieces:
        piece.result()
    return name, tensor


def _land_on_host(target: Tensor, read_into: ReadInto, start: int, _is_free: torch.cuda.Event | None) -> None:
    read_into(target, start)


class _Pinned:
    """For each reader a page-locked piece of memory and a stream of the GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        self._of_thread = threading.local()

    def land(self, target: Tensor, read_into: ReadInto, start: int, is_free: torch.cuda.Event | None) -> None:
        """Returns when the GPU has the bytes, so that the piece can be filled again and the target be used."""
        if not hasattr(self._of_thread, "piece"):
            torch.cuda.set_device(self._device)  # of this thread; else page-locked memory would be the first GPU's
            self._of_thread.piece = torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True)
            self._of_thread.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call,unused-ignore]
        piece: Tensor = self._of_thread.piece[: len(target)]
        stream: torch.cuda.Stream = self._of_thread.stream
        read_into(piece, start)
        with torch.cuda.stream(stream):
            if is_free is not None:
                stream.wait_event(is_free)
            target.copy_(piece, non_blocking=True)
        stream.synchronize()
