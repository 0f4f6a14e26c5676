"""What passes between a group and its ranks.

Knows plain values only: no tensors, no frames, no jobs. Everything here is pickled between processes of one node.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worker.group.request import RenderProgress, RenderRequest, RenderResult
from worker.pipeline.precision import MemoryUse, Precision


@dataclass(frozen=True)
class Launch:
    """The first thing a rank is told."""

    rank: int
    world_size: int
    rendezvous: Path
    """A file that does not exist yet; the ranks find each other through it."""
    preset: str
    weights: Path | None
    device: str
    """`cpu`, `cuda`, or `auto`: CUDA where there is any."""
    threads: int
    collective_timeout_s: float
    precision: Precision | None = None
    """None: the one that suits `memory` on the rank's device."""
    memory: MemoryUse = MemoryUse.AMPLE
    gpu: int | None = None
    """The rank's GPU as PyTorch counts them; None: on CUDA, that of the rank's own number."""


@dataclass(frozen=True)
class Cancel:
    """To rank 0: end the render at the next block border."""


@dataclass(frozen=True)
class Ping:
    """To an idle rank: say `Idle` again."""


@dataclass(frozen=True)
class Exit:
    """To an idle rank: end in good order."""


@dataclass(frozen=True)
class DeviceReport:
    name: str
    memory_total_bytes: int
    memory_used_bytes: int


@dataclass(frozen=True)
class Ready:
    """A rank has its weights and waits for a render."""

    rank: int
    pid: int
    device: DeviceReport


@dataclass(frozen=True)
class Idle:
    """A rank is out of the render, however that ended, or answers a `Ping`."""

    rank: int
    device: DeviceReport


@dataclass(frozen=True)
class Finished:
    result: RenderResult


@dataclass(frozen=True)
class Stopped:
    """The render ended at a block border because of a `Cancel`."""


@dataclass(frozen=True)
class Refused:
    """What was asked for cannot be made. The rank is as fit as before, unless it says this before `Ready`."""

    code: str
    message: str


@dataclass(frozen=True)
class Interrupted:
    """The render ended by a fault outside the network, such as a full disk; another try may do. The group is fit."""

    code: str
    message: str


@dataclass(frozen=True)
class Failed:
    """A rank cannot go on; it exits after this and takes the group with it."""

    rank: int
    code: str
    message: str
    traceback: str


ToRank = Launch | RenderRequest | Cancel | Ping | Exit
FromRank = Ready | Idle | RenderProgress | Finished | Stopped | Refused | Interrupted | Failed
