"""What one group of ranks is, and how long it may be silent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worker.pipeline.precision import MemoryUse, Precision


@dataclass(frozen=True)
class GroupSettings:
    preset: str = "tiny"
    ranks: int = 1
    weights: Path | None = None
    device: str = "auto"
    precision: Precision | None = None
    """None: the one that suits `memory`."""
    memory: MemoryUse = MemoryUse.AMPLE
    compiled: Path | None = None
    """Where compiled kernels are kept for the next start; None: in Triton's own place, in the home directory."""
    gpus: tuple[int, ...] = ()
    """The GPU of each rank; empty: left to `device`."""
    threads_per_rank: int = 1
    start_deadline_s: float = 900.0
    """Importing torch takes ten seconds, loading the large weights some minutes."""
    progress_deadline_s: float = 40.0
    """Longest silence of a group that draws. Below the time after which a worker gives up its lease."""
    finish_deadline_s: float = 120.0
    """Longest time in which the file of a video that is drawn does not grow."""
    collective_timeout_s: float = 120.0
