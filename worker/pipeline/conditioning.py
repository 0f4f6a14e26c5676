"""Which rows of sound each block hears, and how many blocks a video takes (specification, sections 9 and 13).

Knows counts and alignment; no networks. In a stand-alone render the first latent frame gives a single pixel frame, so
three copies of the first row go in front: pixel frame p then lies on row p, as in the live service, where a block of
silence comes first.

Rows come as a stream and a window of them leaves for each block, so sound of any length passes in bounded memory.
Shapes: N states of wav2vec2, A their width, R rows (one per pixel frame).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import count

import torch
from torch import Tensor

from worker.pipeline.config import FRAMES_PER_LATENT, DiTConfig
from worker.pipeline.dit.audio_net import ROWS_BEFORE, rows_for
from worker.pipeline.errors import InvalidRender

LEAD_ROWS = FRAMES_PER_LATENT - 1
"""Copies of the first row in front of a stand-alone render: the pixel frames that the first latent frame lacks."""


def block_count(config: DiTConfig, frames: int) -> int:
    """Blocks needed for so many pixel frames."""
    return -(-(frames + LEAD_ROWS) // config.frames_per_block)


def decoded_frames(config: DiTConfig, block: int) -> int:
    """Pixel frames that a block decodes to: 5 for the first of a stream, 8 for every other."""
    return config.frames_per_block - (LEAD_ROWS if block == 0 else 0)


def audio_windows(
    rows: Iterable[Tensor],
    config: DiTConfig,
    *,
    lead: int = LEAD_ROWS,
    first_block: int = 0,
    on_passed: Callable[[], None] = lambda: None,
) -> Iterator[Tensor]:
    """The window [N, A, 13] of every block, for ever: the first row stands for all before, the last for all behind.

    `rows` yields pieces [N, A, any number of rows] in order; each is let go as soon as it is passed. `lead` is the
    number of extra copies of the first row in front. Windows before `first_block` are passed over, and
    `on_passed` is called for each. Raises `InvalidRender` when there is no row at all.
    """
    pieces = iter(rows)
    length = rows_for(config.num_frame_per_block)
    held = _first_piece(pieces)
    held = torch.cat((held[..., :1].expand(-1, -1, ROWS_BEFORE + lead), held), dim=-1)
    for block in count():
        while held.shape[-1] < length:
            piece = next(pieces, None)
            held = torch.cat((held, held[..., -1:] if piece is None else piece), dim=-1)
        if block >= first_block:
            yield held[..., :length].contiguous()
        else:
            on_passed()
        held = held[..., config.frames_per_block :]


def _first_piece(pieces: Iterator[Tensor]) -> Tensor:
    for piece in pieces:
        if piece.shape[-1]:
            return piece
    raise InvalidRender("the sound has no rows to speak from")
