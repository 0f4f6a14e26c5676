"""What a check found."""

from dataclasses import asdict, dataclass
from enum import StrEnum


class State(StrEnum):
    OK = "ok"
    NOTE = "note"  # works, but less well than it could, or not for everything
    UNUSED = "unused"  # nothing is configured that would need it
    MISSING = "missing"  # needed, and not there


@dataclass(frozen=True)
class Finding:
    name: str
    state: State
    said: str
    mend: str = ""
    """What to do about it; empty where nothing needs to be done."""

    def as_document(self) -> dict[str, str]:
        return asdict(self)
