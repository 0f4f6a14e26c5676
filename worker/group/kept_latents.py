"""Latents of a long video on disk, a file for each of its pieces, so that another attempt can go on behind them.

Knows files and which blocks belong to which piece. The last frames of the block that a piece ends in belong to the next
piece; that block is made again, and its first frames are left out.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from worker.media.errors import DiskFull
from worker.media.segments import SEGMENT_FRAMES, Segments, latents_name
from worker.pipeline.conditioning import LEAD_ROWS
from worker.pipeline.config import FRAMES_PER_LATENT
from worker.pipeline.pipeline import RenderedBlock
from worker.pipeline.resumption import Resumption

_LATENTS = "latents"

log = logging.getLogger(__name__)


class KeptLatents:
    """Takes the blocks of one render in order and writes those of each piece, when they are all there."""

    def __init__(self, directory: Path) -> None:
        """The files appear in `directory` under the names of `latents_name`."""
        self._directory = directory
        self._held: list[Tensor] = []

    def keep(self, block: RenderedBlock) -> None:
        """Raises DiskFull when the file cannot be written."""
        self._held.append(block.latents)
        piece, is_inside = divmod(block.index + 1, blocks_per_piece(block.latents))
        if is_inside:
            return
        try:
            self._write(piece - 1)
        except (OSError, SafetensorError) as error:
            raise DiskFull(f"Latents could not be kept on the disk: {error}") from error

    def _write(self, piece: int) -> None:
        self._directory.mkdir(exist_ok=True)
        path = self._directory / latents_name(piece)
        partial = path.with_name(f".{path.name}.partial")
        save_file({_LATENTS: torch.stack(self._held)}, partial)
        partial.replace(path)
        self._held.clear()


def read_resumption(segments: Segments) -> Resumption | None:
    """Where a video goes on that has some pieces. None: its latents cannot be read, which is logged."""
    try:
        paths = [segments.directory / latents_name(segments.made - 1)]
        for piece in reversed(range(segments.made - 1)):
            earlier = segments.directory / latents_name(piece)
            if not earlier.exists():
                break  # only as many are brought along as are needed
            paths.insert(0, earlier)
        latents = torch.cat([load_file(path)[_LATENTS] for path in paths])
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        log.warning("the video is drawn from the start, as the latents of its pieces cannot be read: %s", error)
        return None
    return Resumption(block=segments.made * blocks_per_piece(latents[0]), latents=latents)


def blocks_per_piece(latents_cfhw: Tensor) -> int:
    """By the latents of one block."""
    return SEGMENT_FRAMES // (FRAMES_PER_LATENT * latents_cfhw.shape[1])


def frames_known(resumption: Resumption, segments: Segments) -> int:
    """Of the first frames that a resumed render gives, how many are in a piece already."""
    latent_frames = resumption.block * resumption.latents.shape[2]
    return segments.made * SEGMENT_FRAMES - (FRAMES_PER_LATENT * latent_frames - LEAD_ROWS)
