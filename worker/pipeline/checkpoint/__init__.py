"""From files of weights, or from a seed, into networks that were built without any memory for their weights.

Knows file formats, the key names of the released files and how numbers get into a module. Knows nothing about what the
networks compute. Every network is built on the meta device and then filled by a `WeightSource`.
"""

from worker.pipeline.checkpoint.bundled import BundledWeights
from worker.pipeline.checkpoint.drawn import RandomWeights
from worker.pipeline.checkpoint.errors import (
    CheckpointError,
    CheckpointMismatch,
    CheckpointNotFound,
    CheckpointUnreadable,
)
from worker.pipeline.checkpoint.fill import Place, put, wanted_shapes
from worker.pipeline.checkpoint.names import Network
from worker.pipeline.checkpoint.released import DiTRelease, ReleasedWeights
from worker.pipeline.checkpoint.source import GivenWeights, WeightSource

__all__ = [
    "BundledWeights",
    "CheckpointError",
    "CheckpointMismatch",
    "CheckpointNotFound",
    "CheckpointUnreadable",
    "DiTRelease",
    "GivenWeights",
    "Network",
    "Place",
    "RandomWeights",
    "ReleasedWeights",
    "WeightSource",
    "put",
    "wanted_shapes",
]
