"""What a checkpoint consists of, as it lies in the storage. Knows its form and names; reads and writes nothing.

A manifest is named by its own hash, so whoever has the name can tell whether it is whole. Objects of earlier attempts
stay where they are and are named again.
"""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict

from models.object_keys import checkpoint_key
from worker.tasks.video_identity import VideoIdentity

MANIFEST_MAX_BYTES = 16 * 2**20


class KeptObject(BaseModel):
    model_config = ConfigDict(frozen=True)

    key: str
    size_bytes: int
    sha256: str


class KeptLatents(BaseModel):
    model_config = ConfigDict(frozen=True)

    piece: int
    """Of the video; the last ones are needed to go on."""
    file: KeptObject


class Manifest(BaseModel):
    model_config = ConfigDict(frozen=True)

    video: VideoIdentity
    pieces: tuple[KeptObject, ...]
    """From the first on, without a gap."""
    latents: tuple[KeptLatents, ...]

    def encoded(self) -> bytes:
        return self.model_dump_json().encode()

    def keys(self) -> set[str]:
        return {piece.key for piece in self.pieces} | {latents.file.key for latents in self.latents}


def manifest_key(encoded: bytes, *, tenant_id: str, job_id: str, attempt: int) -> str:
    name = f"{hashlib.sha256(encoded).hexdigest()}.json"
    return checkpoint_key(name, tenant_id=tenant_id, job_id=job_id, attempt=attempt)


def is_whole(key: str, encoded: bytes) -> bool:
    """Whether these bytes are the manifest of that name."""
    return key.rsplit("/", 1)[-1] == f"{hashlib.sha256(encoded).hexdigest()}.json"
