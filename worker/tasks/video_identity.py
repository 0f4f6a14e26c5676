"""What makes one video and no other: equal for two attempts exactly if the second may go on from what the first kept.

Knows the request, the prepared files and the network by name. The number of ranks is not part of it: noise and cuts do
not depend on it, so a job may go on on a node of another layout.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from worker.group.request import RenderRequest
from worker.media.muxing import Quality
from worker.media.segments import SEGMENT_S
from worker.pipeline.precision import Precision
from worker.weights.identity import DRAWN

DRAWING_VERSION = 1
"""To be raised when this program draws or encodes the same request in another way than before."""


class NetworkIdentity(BaseModel):
    """What a node draws with."""

    model_config = ConfigDict(frozen=True)

    preset: str = "tiny"
    weights: str = DRAWN
    """See `worker.weights.identity`."""
    precision: Precision | None = None


class VideoIdentity(BaseModel):
    """Hashes, one for each thing that can change between two attempts."""

    model_config = ConfigDict(frozen=True)

    program: str
    weights: str
    configuration: str
    inputs: str

    def differences(self, other: VideoIdentity) -> list[str]:
        """The names of what is not the same."""
        return [name for name in type(self).model_fields if getattr(self, name) != getattr(other, name)]


def identity_of(request: RenderRequest, network: NetworkIdentity) -> VideoIdentity:
    """Reads the prepared speech and picture. The sound track is put under the picture only at the end."""
    return VideoIdentity(
        program=_hash_of(DRAWING_VERSION, SEGMENT_S, asdict(Quality())),
        weights=_hash_of(network.weights),
        configuration=_hash_of(
            network.preset,
            network.precision,
            (request.width, request.height, request.frames, request.output_fps, request.duration_s),
            (request.denoising_steps, request.audio_mode, request.sink_rotation),
        ),
        inputs=_hash_of(request.prompt, request.seed, _file_hash(request.speech), _file_hash(request.picture)),
    )


def _hash_of(*values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
