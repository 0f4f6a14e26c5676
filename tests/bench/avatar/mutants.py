"""Defects of the pipeline, put in on purpose: with any of them the bench must fail."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from unittest import mock

import torch

from worker.pipeline import encoders
from worker.pipeline.dit.kv_cache import KVCache, Slots
from worker.pipeline.vae import PlainStream


@contextmanager
def _sound_one_block_late() -> Iterator[None]:
    """The first block hears its window twice, and all others that of the block before."""
    windows = encoders.audio_windows

    def late(rows, config, **options):
        made = windows(rows, config, **options)
        first = next(made)
        yield first
        yield first
        yield from made

    with mock.patch.object(encoders, "audio_windows", late):
        yield


@contextmanager
def _wrong_ring_slot() -> Iterator[None]:
    """Every block is written over the one before it; what it sees beside itself is old."""
    right = KVCache.block_slots

    def wrong(self: KVCache, block: int) -> Slots:
        return Slots(write=right(self, 0).write, read=right(self, block).read)

    with mock.patch.object(KVCache, "block_slots", wrong):
        yield


@contextmanager
def _lost_vae_cache() -> Iterator[None]:
    """The decoder forgets the frames of every block before it begins the next."""
    right = PlainStream.decode_pixels

    def forgetful(self: PlainStream, latents: torch.Tensor) -> torch.Tensor:
        self._caches = [torch.zeros_like(x) if isinstance(x, torch.Tensor) else x for x in self._caches]
        return right(self, latents)

    with mock.patch.object(PlainStream, "decode_pixels", forgetful):
        yield


MUTANTS: Mapping[str, Callable[[], AbstractContextManager[None]]] = MappingProxyType(
    {
        "late-sound": _sound_one_block_late,
        "ring-slot": _wrong_ring_slot,
        "vae-cache": _lost_vae_cache,
    }
)
