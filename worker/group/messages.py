"""What passes between a group and its ranks.

A rank draws one video at a time. Rank 0 may prepare the next meanwhile and finish the files of those before, so what it
says of a video carries the name of its render.

Knows plain values only: no tensors, no frames, no jobs. Everything here is pickled between processes of one node.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from worker.group.request import RenderProgress, RenderRequest, RenderResult
from worker.pipeline.dit_clock import DiTSeconds
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
    compiled: Path | None = None
    """As in `GroupSettings`."""
    gpu: int | None = None
    """The rank's GPU as PyTorch counts them; None: on CUDA, that of the rank's own number."""


@dataclass(frozen=True)
class Upcoming:
    """To rank 0: this video is drawn next, or never; open its files and encode it meanwhile."""

    request: RenderRequest


@dataclass(frozen=True)
class Draw:
    """To every rank at the same time: draw this video now."""

    request: RenderRequest
    wanted_since: float
    """By `time.monotonic`, which all processes of a machine share: from then on an idle DiT was a waste."""


@dataclass(frozen=True)
class Cancel:
    """To rank 0: let go of what was prepared, end the drawing at the next block border, or leave the file."""

    name: str


@dataclass(frozen=True)
class Ping:
    """To a rank that does not draw: say `Idle` again."""


@dataclass(frozen=True)
class Exit:
    """To a rank that does not draw: end in good order."""


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
    """A rank draws nothing: it is out of the drawing, however that ended, or answers a `Ping`."""

    rank: int
    device: DeviceReport


@dataclass(frozen=True)
class Worked:
    """A rank with the DiT, every now and then while it draws."""

    rank: int
    dit: DiTSeconds


@dataclass(frozen=True)
class Moved:
    name: str
    progress: RenderProgress


@dataclass(frozen=True)
class Drawn:
    """All frames of the video are with the writer of its file, which now ends it."""

    name: str


@dataclass(frozen=True)
class Finished:
    name: str
    result: RenderResult


@dataclass(frozen=True)
class Stopped:
    """The render ended because of a `Cancel`."""

    name: str


@dataclass(frozen=True)
class Refused:
    """What was asked for cannot be made. The rank is as fit as before."""

    name: str
    code: str
    message: str


@dataclass(frozen=True)
class Interrupted:
    """The render ended by a fault outside the network, such as a full disk; another try may do. The group is fit."""

    name: str
    code: str
    message: str


@dataclass(frozen=True)
class Unstartable:
    """In place of `Ready`: the group can never start as it is configured."""

    code: str
    message: str


@dataclass(frozen=True)
class Failed:
    """A rank cannot go on; it exits after this and takes the group with it."""

    rank: int
    code: str
    message: str
    traceback: str


ToRank = Launch | Upcoming | Draw | Cancel | Ping | Exit
Outcome = Finished | Stopped | Refused | Interrupted
FromRank = Ready | Unstartable | Idle | Worked | Moved | Drawn | Outcome | Failed
