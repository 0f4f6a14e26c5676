"""What a directory of weights holds: commits of repositories, and size and hash of every file.

Knows `manifest.json` and hashes. Files are named relative to the directory, with forward slashes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from worker.weights.errors import DirectoryBusy, ManifestUnreadable
from worker.weights.progress import FileProgress, OnProgress, Step

_AT_ONCE = 8 * 2**20


@dataclass(frozen=True)
class FileRecord:
    size: int
    sha256: str
    made_from: str | None = None
    """The hash of the file this one was converted from."""


@dataclass(frozen=True)
class Manifest:
    revisions: Mapping[str, str] = field(default_factory=dict)
    """The commit of each repository."""
    files: Mapping[str, FileRecord] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """An empty one where there is none yet. Raises `ManifestUnreadable`."""
        path = _path(directory)
        if not path.exists():
            return cls()
        try:
            held = json.loads(path.read_text())
            files = {name: FileRecord(**record) for name, record in held["files"].items()}
            return cls(revisions=dict(held["revisions"]), files=files)
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ManifestUnreadable(f"{path} is not a manifest of weights: {error}") from error

    def write(self, directory: Path) -> None:
        """Replaces the manifest in one step, so that a crash leaves the old or the new one."""
        held = {
            "revisions": dict(self.revisions),
            "files": {name: vars(record) for name, record in sorted(self.files.items())},
        }
        temporary = _path(directory).with_suffix(".json.part")
        with temporary.open("w") as file:
            json.dump(held, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(_path(directory))

    def with_revision(self, repository: str, revision: str) -> Manifest:
        return replace(self, revisions={**self.revisions, repository: revision})

    def with_file(self, name: str, record: FileRecord) -> Manifest:
        return replace(self, files={**self.files, name: record})


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One writer per directory. Raises `DirectoryBusy`."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DirectoryBusy(f"another process is at work in {directory}") from error
        yield


def sha256(file: Path, *, name: str, on_progress: OnProgress) -> str:
    """The hash of a whole file, reported as `name`."""
    digest = hashlib.sha256()
    total = file.stat().st_size
    with file.open("rb") as opened:
        while piece := opened.read(_AT_ONCE):
            digest.update(piece)
            on_progress(FileProgress(Step.HASH, name, opened.tell(), total))
    return digest.hexdigest()


def _path(directory: Path) -> Path:
    return directory / "manifest.json"
