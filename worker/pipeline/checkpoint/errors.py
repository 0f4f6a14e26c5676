"""What can be wrong with a file of weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_NAMED = 12
"""Keys of each kind that a message names; the exception holds all of them."""


class CheckpointError(ValueError):
    """A file of weights cannot be used. Nothing was loaded."""


class CheckpointNotFound(CheckpointError):
    """None of the places where a network's weights may lie holds them."""

    def __init__(self, what: str, *, places: Sequence[Path]) -> None:
        looked = "; ".join(str(place) for place in places)
        super().__init__(f"{what} not found; looked for {looked}")
        self.places = tuple(places)


class CheckpointUnreadable(CheckpointError):
    """A file is there but is broken, incomplete, or not of the format that its name says."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


class CheckpointMismatch(CheckpointError):
    """The keys of the file are not those of the network. `misshapen` holds (key, shape wanted, shape found)."""

    def __init__(
        self,
        origin: str,
        *,
        missing: Sequence[str],
        unexpected: Sequence[str],
        misshapen: Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]],
    ) -> None:
        wrong = [f"{name} is {list(found)} instead of {list(wanted)}" for name, wanted, found in misshapen]
        parts = [
            f"{len(names)} {what} ({', '.join(names[:_NAMED])}{', …' if len(names) > _NAMED else ''})"
            for what, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", wrong))
            if names
        ]
        super().__init__(f"{origin} does not fit the network: {'; '.join(parts)}")
        self.missing = tuple(missing)
        self.unexpected = tuple(unexpected)
        self.misshapen = tuple(misshapen)
