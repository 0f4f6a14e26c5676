"""What passes between a node and a client of its group, beside the requests and outcomes of `messages.py`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from worker.group.messages import Finished, Interrupted, Refused


@dataclass(frozen=True)
class Hello:
    """Client: this job is to be rendered here."""

    name: str


@dataclass(frozen=True)
class AskForPlace:
    """Client: say when the node would admit one more."""


@dataclass(frozen=True)
class StillHere:
    """Client, every now and then while it waits for its render: it is not frozen."""


@dataclass(frozen=True)
class Admitted:
    """Node: the group is warm, and your video comes next. You have a place here until you hang up."""


@dataclass(frozen=True)
class Unavailable:
    """Node: not now."""

    reason: str


class StopReason(StrEnum):
    CANCELED = "canceled"  # the client asked for it
    DRAINING = "draining"  # the node is going away


@dataclass(frozen=True)
class StoppedFor:
    reason: StopReason


@dataclass(frozen=True)
class Lost:
    """The group went down while it drew the video."""

    code: str
    message: str


Outcome = Finished | StoppedFor | Refused | Interrupted | Lost | Unavailable
