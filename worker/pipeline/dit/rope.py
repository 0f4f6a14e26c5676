"""Positions of tokens and the angles by which their queries and keys turn (specification, section 5).

Knows the grid of one rank's strip and where the blocks lie in time. Angles are computed in float64 from integer
positions, so they stay exact for any length of video; only the multiplication runs in the dtype of the network.

Shapes: S tokens of this rank (frames, rows, columns, columns fastest), P = head_dim / 2 pairs of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.pipeline.config import DiTConfig


@dataclass(frozen=True)
class Turn:
    """Cosines and sines of the angles of some tokens, [S, P] each."""

    cos: Tensor
    sin: Tensor


@dataclass(frozen=True)
class TokenGrid:
    """The tokens of one latent frame that one rank holds, in coordinates of the whole picture."""

    rows: range
    columns: range

    @property
    def tokens_per_frame(self) -> int:
        """Of this rank's strip (L of the whole picture)."""
        return len(self.rows) * len(self.columns)


def axis_frequencies(pairs: int, *, device: torch.device) -> Tensor:
    """Frequencies of the pairs of one axis, [pairs] float64: `10000 ** (-j / pairs)`."""
    return 10000.0 ** (-torch.arange(pairs, dtype=torch.float64, device=device) / pairs)


def block_positions(config: DiTConfig, block: int) -> range:
    """Time positions of the latent frames of a block: 1 + 2b and 2 + 2b. They grow without bound."""
    first = config.sink_frames + block * config.num_frame_per_block
    return range(first, first + config.num_frame_per_block)


def sink_turns(config: DiTConfig, block: int) -> int:
    """By how many time positions the reference frame has turned while a block is made: max(0, b - 9) (quirk 1)."""
    last_still = (config.sink_turns_after - config.sink_frames) // config.num_frame_per_block
    return max(0, block - last_still)


class Rope:
    """Angles of this rank's tokens. The tables of one job are allocated once and rewritten in place for every block."""

    def __init__(self, config: DiTConfig, grid: TokenGrid, *, device: torch.device, dtype: torch.dtype) -> None:
        """`dtype` is that of the products: float32, or float64 for a float64 network."""
        self._config = config
        self._dtype = dtype
        self._space_NP = space_angles(config, grid, device=device)
        self._block = self._turn(block_positions(config, 0))

    def reference(self) -> Turn:
        """The angles of the reference frame, at its time position 30."""
        return self._turn([self._config.sink_position])

    def block(self, block: int) -> Turn:
        """The angles of a block. The same two tensors at every call, overwritten."""
        turn = self._turn(block_positions(self._config, block))
        self._block.cos.copy_(turn.cos)
        self._block.sin.copy_(turn.sin)
        return self._block

    def time_shift(self, positions: int) -> Turn:
        """The turn of any token by so many further time positions, [1, P]; height and width stand still."""
        still_1P = torch.zeros_like(self._space_NP[:1])
        return self._as_turn(token_angles(self._config, [positions], still_1P))

    def _turn(self, positions: Sequence[int]) -> Turn:
        return self._as_turn(token_angles(self._config, positions, self._space_NP))

    def _as_turn(self, angles_SP: Tensor) -> Turn:
        return Turn(angles_SP.cos().to(self._dtype), angles_SP.sin().to(self._dtype))


def token_angles(config: DiTConfig, positions: Sequence[int], space_NP: Tensor) -> Tensor:
    """Angles of all tokens of the frames at these time positions, [S, P] float64."""
    time_P = axis_frequencies(config.rope_pairs[0], device=space_NP.device)
    frames = [torch.cat(((time_P * position).expand(space_NP.shape[0], -1), space_NP), dim=1) for position in positions]
    return torch.cat(frames)


def space_angles(config: DiTConfig, grid: TokenGrid, *, device: torch.device) -> Tensor:
    """Height and width angles of one frame's tokens, [tokens, pairs of height and width] float64."""
    _, pairs_h, pairs_w = config.rope_pairs
    rows = torch.arange(grid.rows.start, grid.rows.stop, dtype=torch.float64, device=device)
    columns = torch.arange(grid.columns.start, grid.columns.stop, dtype=torch.float64, device=device)
    by_row = torch.outer(rows, axis_frequencies(pairs_h, device=device))
    by_column = torch.outer(columns, axis_frequencies(pairs_w, device=device))
    return torch.cat((by_row.repeat_interleave(len(columns), dim=0), by_column.repeat(len(rows), 1)), dim=1)
