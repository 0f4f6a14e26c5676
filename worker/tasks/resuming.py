"""Brings back what an earlier attempt kept of a video, if it is whole and of this very video; else it is drawn anew.

Knows the storage and files. A checkpoint that is of no use never fails a job: the log says why, and the render begins
at its start.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from worker.media.segments import Segmentation, latents_name, segment_name
from worker.storage import Storage, StorageError
from worker.tasks.checkpoint_manifest import MANIFEST_MAX_BYTES, KeptObject, Manifest, is_whole
from worker.tasks.video_identity import VideoIdentity

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resumed:
    """Pieces that are in the directory, with the latents of the last of them."""

    key: str
    manifest: Manifest


def resume(
    job_id: str,
    key: str | None,
    *,
    video: VideoIdentity,
    plan: Segmentation,
    storage: Storage,
    into: Path,
    may_go_on: Callable[[], None],
) -> Resumed | None:
    """Fetch the checkpoint of that name into an empty directory. None: there is none, or none of use.

    `may_go_on` is asked between two files, and whatever it raises ends this.
    """
    if key is None:
        return None
    try:
        manifest = _manifest(key, storage=storage, into=into)
        _check(manifest, video=video, plan=plan)
        for number, piece in enumerate(manifest.pieces):
            may_go_on()
            _fetch(piece, into / segment_name(number), storage=storage)
        for latents in manifest.latents:
            may_go_on()
            _fetch(latents.file, into / latents_name(latents.piece), storage=storage)
    except (_OfNoUse, StorageError, OSError) as error:
        log.warning("%s: drawn from the start: its checkpoint %s is of no use: %s", job_id, key, error)
        shutil.rmtree(into)
        into.mkdir()
        return None
    log.info("%s: goes on after %d pieces of %s", job_id, len(manifest.pieces), key)
    return Resumed(key=key, manifest=manifest)


class _OfNoUse(Exception):
    """What lies in the storage is not whole, or of another video."""


def _manifest(key: str, *, storage: Storage, into: Path) -> Manifest:
    path = into / "manifest.json"
    storage.download(key, path, max_bytes=MANIFEST_MAX_BYTES)
    encoded = path.read_bytes()
    path.unlink()
    if not is_whole(key, encoded):
        raise _OfNoUse("it is not what was stored under this name")
    try:
        return Manifest.model_validate_json(encoded)
    except ValidationError as error:
        raise _OfNoUse(f"it is of another form: {error.error_count()} errors") from error


def _check(manifest: Manifest, *, video: VideoIdentity, plan: Segmentation) -> None:
    differences = manifest.video.differences(video)
    if differences:
        raise _OfNoUse(f"something else since then: {', '.join(differences)}")
    if not 0 < len(manifest.pieces) < plan.count:
        raise _OfNoUse(f"{len(manifest.pieces)} pieces of {plan.count}")


def _fetch(kept: KeptObject, path: Path, *, storage: Storage) -> None:
    stored = storage.download(kept.key, path, max_bytes=kept.size_bytes)
    if (stored.size_bytes, stored.sha256) != (kept.size_bytes, kept.sha256):
        raise _OfNoUse(f"{kept.key} is not what was stored")
