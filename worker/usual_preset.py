"""Which preset is meant where none is named: the released network where it can run, and else the small trained one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.gpus import Gpu

RELEASED, SMALL = "14b", "avatar"


@dataclass(frozen=True)
class UsualPreset:
    name: str
    why: str | None
    """A sentence for whoever may have expected the released network; None where it is the one."""


def usual_preset(*, weights: Path | None, gpus: Sequence[Gpu], weights_named_by: str) -> UsualPreset:
    """`weights_named_by`: the option or variable that names a directory of released weights."""
    instead = f"so the small {SMALL} preset draws; it knows drawn portraits only"
    if weights is None:
        return UsualPreset(SMALL, f"No {RELEASED.upper()} weights were given ({weights_named_by}), {instead}.")
    if not gpus:
        return UsualPreset(SMALL, f"No GPU was found, {instead}. --preset {RELEASED} insists.")
    return UsualPreset(RELEASED, None)
