"""Which numbers of ranks can render which picture (specification, section 15).

Knows numbers only and loads nothing, so that an impossible number is refused before any network is touched. How the
strips are then cut and exchanged is in `parallel.py`.

A group of one rank does everything. In a larger one rank 0 holds the encoders and the VAE, and the P others cut the
picture: P has to divide the DiT's heads, and one side of the latent picture in whole patches.
"""

from __future__ import annotations

from enum import StrEnum

from worker.pipeline.config import PIXELS_PER_LATENT, DiTConfig
from worker.pipeline.errors import ImpossibleLayout


class CutSide(StrEnum):
    """Which latent cells a strip has fewer of than the picture."""

    ROWS = "rows"
    COLUMNS = "columns"


def dit_ranks_of(world_size: int) -> int:
    """P, how many ranks of a group hold the DiT: a rank alone does everything, else all but rank 0."""
    return max(1, world_size - 1)


def cut_side(config: DiTConfig, *, height: int, width: int, parts: int) -> CutSide | None:
    """The side of a picture of `height` x `width` pixels that `parts` DiT ranks cut; None where none divides.

    The shorter side, as in the reference (columns of a square); where it does not divide, the longer one.
    """
    rows, columns = height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT
    _, p, q = config.patch
    if config.num_heads % parts or rows % p or columns % q:
        return None
    rows_fit, columns_fit = rows % (parts * p) == 0, columns % (parts * q) == 0
    if rows_fit and (height < width or not columns_fit):
        return CutSide.ROWS
    return CutSide.COLUMNS if columns_fit else None


def possible_world_sizes(config: DiTConfig, *, height: int, width: int) -> tuple[int, ...]:
    """How many ranks can render a picture of `height` x `width` pixels: 1, and 1 + P for every P that fits."""
    parts = range(1, config.num_heads + 1)
    fitting = [p for p in parts if cut_side(config, height=height, width=width, parts=p) is not None]
    return tuple(sorted({1, *(p + 1 for p in fitting)})) if fitting else ()


def check_heads(config: DiTConfig, *, parts: int) -> None:
    """Raises `ImpossibleLayout` when no picture at all can be rendered by `parts` DiT ranks."""
    if config.num_heads % parts:
        fitting = [p + 1 for p in range(1, config.num_heads + 1) if config.num_heads % p == 0]
        raise ImpossibleLayout(
            f"{config.num_heads} heads do not divide by {parts} DiT ranks", possible_world_sizes=(1, *fitting)
        )


def check_picture(config: DiTConfig, *, parts: int, height: int, width: int) -> CutSide:
    """The side to cut. Raises `ImpossibleLayout` when `parts` DiT ranks cannot render `height` x `width` pixels."""
    side = cut_side(config, height=height, width=width, parts=parts)
    if side is None:
        raise ImpossibleLayout(
            f"{config.num_heads} heads and a picture of {width} x {height} pixels do not cut into {parts} equal parts",
            possible_world_sizes=possible_world_sizes(config, height=height, width=width),
        )
    return side
