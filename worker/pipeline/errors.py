"""What can go wrong inside the pipeline, as the caller sees it.

Mistakes of the caller are `ValueError`s and leave the pipeline fit for the next render. `RenderStopped` and
`RenderAborted` are outcomes that every rank of a group reaches at the same block border.
"""

from __future__ import annotations

from collections.abc import Sequence


class UnknownPreset(ValueError):
    """No set of sizes has that name."""

    def __init__(self, name: str, *, known: Sequence[str]) -> None:
        super().__init__(f"unknown preset {name!r}; known are: {', '.join(known)}")
        self.name = name
        self.known = tuple(known)


class ImpossibleLayout(ValueError):
    """The sequence cannot be cut for that many ranks: heads or the cut side do not divide."""

    def __init__(self, reason: str, *, possible_world_sizes: Sequence[int]) -> None:
        sizes = ", ".join(map(str, possible_world_sizes))
        super().__init__(f"{reason}; possible numbers of ranks: {sizes}")
        self.possible_world_sizes = tuple(possible_world_sizes)


class UnusablePrecision(ValueError):
    """The device, or what is installed beside it, cannot compute as the operator asked."""


class InvalidRender(ValueError):
    """The settings of a render ask for what the network cannot make."""


class UnusableResumption(InvalidRender):
    """What is left of an earlier render does not fit this one, which can still be drawn from its start."""


class RenderStopped(Exception):
    """The render ended at a block border because rank 0 was asked to stop. Raised on every rank."""

    def __init__(self, *, block: int) -> None:
        super().__init__(f"stopped before block {block}")
        self.block = block


class RenderAborted(Exception):
    """Rank 0 could not go on (its own exception says why); the DiT ranks are free for the next render."""


class PeerLost(RuntimeError):
    """Another rank died or did not answer in time. The group is not usable any more."""
