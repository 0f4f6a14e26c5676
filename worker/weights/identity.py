"""Whether two directories hold the same weights, without reading them. Knows the manifest and files; no network."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from worker.weights.errors import ManifestUnreadable
from worker.weights.manifest import Manifest

log = logging.getLogger(__name__)

DRAWN = "drawn"
"""Of weights that are drawn from a seed."""


def weights_identity(directory: Path | None) -> str:
    """The same for the same weights, and different for others.

    By the hashes in the manifest of what was pulled; where there is none that can be read, by name, size and time of
    every file, so a copy made by hand may look like other weights. Raises OSError.
    """
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
