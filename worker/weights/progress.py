"""How far a long piece of work on files is. Knows bytes only; who draws a bar of it is not known here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Step(StrEnum):
    DOWNLOAD = "download"
    HASH = "hash"
    CONVERT = "convert"


@dataclass(frozen=True)
class FileProgress:
    step: Step
    file: str
    """Relative to the directory of weights."""
    done: int
    """Bytes."""
    total: int


OnProgress = Callable[[FileProgress], None]


def ignore(progress: FileProgress) -> None:
    """For callers that do not want to know."""
