"""The floor of what one rank of a render does: the DiT's part, the VAE's, or, alone, one after the other.

Knows which rank holds what, and reads the ceilings of that. Encoders are left out: they work once a render.
"""

from __future__ import annotations

import torch

from worker.bench.ceilings import Ceiling
from worker.bench.dit import read_dit_ceilings, ways_of
from worker.bench.figures import Floor, Piece
from worker.bench.floor import dit_floor, whole
from worker.bench.vae import read_vae_ceilings
from worker.bench.vae_work import decoder_convolutions, vae_floor
from worker.bench.work import block_work
from worker.pipeline.compute import Compute
from worker.pipeline.config import PipelineConfig
from worker.pipeline.parallel import RankLayout

Reading = tuple[Ceiling, ...]


class RankFloor:
    """Read before a render and after it; the floor is of the two last readings."""

    def __init__(
        self, config: PipelineConfig, *, height: int, width: int, compute: Compute, layout: RankLayout
    ) -> None:
        self._config = config
        self._height = height
        self._width = width
        self._compute = compute
        self._layout = layout
        self._dit: list[Reading] = []
        self._vae: list[Reading] = []
        self._convolutions = decoder_convolutions(
            config.vae, height=height, width=width, latent_frames=config.dit.num_frame_per_block
        )

    @torch.no_grad()
    def read(self) -> None:
        """Raises `UnusablePrecision`."""
        if self._layout.holds_dit:
            self._dit.append(
                read_dit_ceilings(
                    self._config.dit,
                    height=self._height,
                    width=self._width,
                    compute=self._compute,
                    parts=self._layout.dit_size,
                )
            )
        if self._layout.holds_encoders:
            self._vae.append(read_vae_ceilings(self._convolutions, compute=self._compute))

    def of(self, *, steps: int) -> Floor:
        """Of one block of a render with so many steps, on this rank."""
        pieces: list[Piece] = []
        if self._layout.holds_dit:
            work = block_work(
                self._config.dit,
                height=self._height,
                width=self._width,
                steps=steps,
                precision=self._compute.precision,
                parts=self._layout.dit_size,
                full_bytes=self._compute.dtype.itemsize,
            )
            pieces.extend(dit_floor(work, self._dit[-2:]).pieces)
        if self._layout.holds_encoders:
            pieces.extend(vae_floor(self._convolutions, self._vae[-2:]).pieces)
        return whole(pieces)

    @property
    def ways_to_attend(self) -> tuple[str, ...]:
        """Backends that were tried and worked."""
        return ways_of("attention", self._dit[0]) if self._dit else ()
