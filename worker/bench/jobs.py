"""What one measurement is asked to do, as it is sent to its processes. Knows names and numbers; loads no network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worker.pipeline.precision import MemoryUse, Precision


@dataclass(frozen=True)
class RowsJob:
    """A DiT, a VAE's decoder or a whole group, loaded once and run at each number of steps."""

    preset: str
    precision: Precision
    """Of the DiT, as the steps are: a VAE alone has neither."""
    memory: MemoryUse
    steps: tuple[int, ...]
    height: int
    width: int
    blocks: int
    """Those that count, of each number of steps."""
    weights: Path | None
    """None: drawn."""


@dataclass(frozen=True)
class CompareJob:
    """The same video made in several ways, the first of which is what the others are held against."""

    preset: str
    ways: tuple[str, ...]
    steps: int
    height: int
    width: int
    blocks: int
    weights: Path | None
    audio: Path | None
    """None: a stand-in."""
    image: Path | None
