"""Where a render goes on that was broken off: the first block to make, and latents of those before it.

Knows latents; no files. Whoever kept them sees to it that they are of this very video.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor

from worker.pipeline.config import PIXELS_PER_LATENT, PipelineConfig
from worker.pipeline.errors import UnusableResumption
from worker.pipeline.reach import blocks_needed
from worker.pipeline.settings import RenderSettings


@dataclass(frozen=True)
class Resumption:
    """The next block to be made is `block`; `latents` [n, c, f, h, w] are of the n blocks before it, in order."""

    block: int
    latents: Tensor

    def check(self, config: PipelineConfig, settings: RenderSettings, *, blocks: int) -> None:
        """Raises `UnusableResumption` unless a video of so many blocks can go on from here."""
        if not 0 < self.block < blocks:
            raise UnusableResumption(f"a video of {blocks} blocks cannot go on at block {self.block}")
        sides = (settings.height // PIXELS_PER_LATENT, settings.width // PIXELS_PER_LATENT)
        wanted = (config.dit.out_dim, config.dit.num_frame_per_block, *sides)
        needed = min(self.block, blocks_needed(config))
        if tuple(self.latents.shape[1:]) != wanted or not needed <= len(self.latents) <= self.block:
            raise UnusableResumption(
                f"latents {list(self.latents.shape)} are not at least {needed} blocks of {list(wanted)} "
                f"before block {self.block}"
            )

    def of(self, blocks: Iterable[int]) -> Iterator[Tensor]:
        """The latents [c, f, h, w] of some of those blocks."""
        first = self.block - len(self.latents)
        for block in blocks:
            yield self.latents[block - first]
