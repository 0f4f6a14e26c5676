"""The published weights onto this machine.

Knows what is wanted, what is there, and what is missing. Everything finished is in the manifest with its hash; what is
unfinished goes on at the next pull.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from worker.weights.catalog import RELEASED, Repository
from worker.weights.errors import DamagedFile, DiskTooSmall, FilesNotOffered, RevisionPinned
from worker.weights.hub import Hub, OfferedFile, Snapshot, partial_path
from worker.weights.manifest import FileRecord, Manifest, locked, sha256
from worker.weights.progress import FileProgress, OnProgress, Step, ignore

FIRST_REVISION = "main"

_SPARE_BYTES = 512 * 2**20
"""Room that is left on the disk."""


@dataclass(frozen=True)
class PullPlan:
    """What a pull is about to do."""

    revisions: Mapping[str, str]
    """The commit of each repository."""
    files: int
    """To be fetched; the others are there."""
    size: int
    """Bytes of these, less what an earlier pull has left of them."""
    free: int
    """Bytes on the disk."""


OnPlan = Callable[[PullPlan], None]


def pull(
    directory: Path,
    *,
    repositories: Sequence[Repository] = RELEASED,
    hub: Hub | None = None,
    on_plan: OnPlan | None = None,
    on_progress: OnProgress = ignore,
) -> Manifest:
    """Fetches what is missing. The directory then suits `ReleasedWeights`. Raises `WeightsError`, `OSError`.

    A repository that the manifest knows stays at its commit; another one begins at its catalog revision.
    """
    hub = hub or Hub()
    with locked(directory):
        manifest = Manifest.read(directory)
        wanted = [
            file
            for repository in repositories
            for file in _wanted(repository, hub, pinned=manifest.revisions.get(repository.name))
        ]
        missing = [file for file in wanted if not _is_there(file, directory, manifest)]
        plan = _plan(directory, wanted, missing)
        if on_plan is not None:
            on_plan(plan)
        if plan.size and plan.size + _SPARE_BYTES > plan.free:
            raise DiskTooSmall(directory, needed=plan.size + _SPARE_BYTES, free=plan.free)
        for file in missing:
            manifest = manifest.with_revision(file.snapshot.repository, file.snapshot.commit)
            record = _fetch(file, directory, hub, on_progress=on_progress)
            manifest = manifest.with_file(file.name, record)
            manifest.write(directory)
        return manifest


@dataclass(frozen=True)
class _Wanted:
    snapshot: Snapshot
    offered: OfferedFile

    @property
    def name(self) -> str:
        return f"{self.snapshot.repository}/{self.offered.name}"


def _wanted(repository: Repository, hub: Hub, *, pinned: str | None) -> list[_Wanted]:
    if pinned is not None and repository.revision not in (None, pinned):
        raise RevisionPinned(
            f"{repository.name} is at {pinned} here; pull {repository.revision} into a directory of its own"
        )
    snapshot = hub.snapshot(repository.name, pinned or repository.revision or FIRST_REVISION)
    unsafe = [file.name for file in snapshot.files if Path(file.name).is_absolute() or ".." in Path(file.name).parts]
    if unsafe:
        raise FilesNotOffered(f"{repository.name} names files outside itself: {', '.join(unsafe)}")
    absent = [p for p in repository.patterns if not any(fnmatchcase(file.name, p) for file in snapshot.files)]
    if absent:
        raise FilesNotOffered(f"{repository.name} at {snapshot.commit} has no {', '.join(absent)}")
    return [
        _Wanted(snapshot, file)
        for file in snapshot.files
        if any(fnmatchcase(file.name, pattern) for pattern in repository.patterns)
    ]


def _is_there(file: _Wanted, directory: Path, manifest: Manifest) -> bool:
    path = directory / file.name
    return file.name in manifest.files and path.is_file() and path.stat().st_size == file.offered.size


def _plan(directory: Path, wanted: Sequence[_Wanted], missing: Sequence[_Wanted]) -> PullPlan:
    size = 0
    for file in missing:
        partial = partial_path(directory / file.name, file.snapshot.commit)
        size += file.offered.size - (partial.stat().st_size if partial.exists() else 0)
    return PullPlan(
        revisions={file.snapshot.repository: file.snapshot.commit for file in wanted},
        files=len(missing),
        size=size,
        free=shutil.disk_usage(directory).free,
    )


def _fetch(file: _Wanted, directory: Path, hub: Hub, *, on_progress: OnProgress) -> FileRecord:
    target = directory / file.name
    stated, size = file.offered.sha256, file.offered.size
    if target.is_file() and stated and sha256(target, name=file.name, on_progress=on_progress) == stated:
        return FileRecord(size=size, sha256=stated)  # somebody has put it there by hand
    hub.fetch(
        file.snapshot,
        file.offered,
        target,
        on_bytes=lambda done: on_progress(FileProgress(Step.DOWNLOAD, file.name, done, size)),
    )
    found = sha256(target, name=file.name, on_progress=on_progress)
    if stated and found != stated:
        target.unlink()
        raise DamagedFile(f"{file.name} has the hash {found}, its publisher states {stated}; it was removed")
    return FileRecord(size=size, sha256=found)
