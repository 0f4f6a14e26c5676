"""What a rank measured of one stretch of blocks, on its way to the process that prints it. Knows numbers only."""

from __future__ import annotations

from dataclasses import dataclass

from worker.bench.figures import Comparison, Floor, Quantiles, Start, Versions

UNTIMED_BLOCKS = 13
"""Both slots of the ring are full, and the sink has turned (for the first time at block 10)."""
FIRST_BLOCKS = 3
"""Blocks that see a shorter cache than all others, or are the first of their slot of the ring."""


@dataclass(frozen=True)
class Stretch:
    """Blocks of one stream without a break."""

    steps: int | None
    gaps_ms: tuple[float, ...]
    """From the end of one block to the end of the next, beginning with the first."""
    began_at: float
    """Of the blocks that count, in seconds since 1970."""
    ended_at: float
    floor: Floor
    peak_gib: float
    writing_ms: tuple[float, ...] = ()
    """How long the writer of the file held up each of the blocks that count; empty where nothing is written."""

    @property
    def block_ms(self) -> Quantiles:
        """Of the blocks that count."""
        return Quantiles.of(self.gaps_ms[UNTIMED_BLOCKS:])

    @property
    def slowest_before_ms(self) -> float:
        """Among the blocks that do not count, but for the first."""
        return max(self.gaps_ms[FIRST_BLOCKS:UNTIMED_BLOCKS])


@dataclass(frozen=True)
class Found:
    """All that one rank measured."""

    versions: Versions
    gpu: str | None
    stretches: tuple[Stretch, ...]
    start: Start | None = None


@dataclass(frozen=True)
class Compared:
    """All that a comparison found."""

    versions: Versions
    comparisons: tuple[Comparison, ...]
