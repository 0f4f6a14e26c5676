"""Whether the files of a directory of weights are still those that were fetched or made."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from worker.weights.errors import ManifestMissing
from worker.weights.manifest import Manifest, sha256
from worker.weights.progress import OnProgress, ignore


class Damage(StrEnum):
    MISSING = "missing"
    SIZE = "another size"
    CONTENT = "other content"


@dataclass(frozen=True)
class DamagedWeights:
    file: str
    """Relative to the directory."""
    damage: Damage


def verify(directory: Path, *, on_progress: OnProgress = ignore) -> tuple[DamagedWeights, ...]:
    """Reads every file of the manifest through; empty when all are as recorded.

    Raises `ManifestMissing` where nothing was recorded, and `ManifestUnreadable`.
    """
    files = Manifest.read(directory).files
    if not files:
        raise ManifestMissing(f"no file of {directory} is in a manifest; a pull or a conversion writes one")
    found = []
    for name, record in files.items():
        path = directory / name
        if not path.is_file():
            found.append(DamagedWeights(name, Damage.MISSING))
        elif path.stat().st_size != record.size:
            found.append(DamagedWeights(name, Damage.SIZE))
        elif sha256(path, name=name, on_progress=on_progress) != record.sha256:
            found.append(DamagedWeights(name, Damage.CONTENT))
    return tuple(found)
