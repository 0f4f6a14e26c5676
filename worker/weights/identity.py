"""Whether two nodes draw with the same weights. Knows the manifest and files; no network."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from worker.weights.catalog import BUNDLED
from worker.weights.errors import ManifestUnreadable
from worker.weights.manifest import Manifest

log = logging.getLogger(__name__)

DRAWN = "drawn"
"""Of weights that are drawn from a seed."""


def weights_identity(preset: str, directory: Path | None) -> str:
    """The same for the same weights, and different for others. Raises OSError.

    A bundled file is read. A directory is known by the hashes in the manifest of what was pulled; where there is none
    that can be read, by name, size and time of every file, so a copy made by hand may look like other weights.
    """
    if preset in BUNDLED:
        return _file_hash(BUNDLED[preset])
    if directory is None:
        return DRAWN
    try:
        files = Manifest.read(directory).files
    except ManifestUnreadable as error:
        log.warning("weights are told apart by their files: %s", error)
        files = {}
    if files:
        known = [f"{name} {record.sha256}" for name, record in sorted(files.items())]
    else:
        known = [
            f"{path.relative_to(directory)} {path.stat().st_size} {path.stat().st_mtime_ns}"
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        ]
    return hashlib.sha256("\n".join(known).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
