"""What a run of the bench is to measure. Knows names and numbers, and loads no network."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from worker.bench.figures import Part
from worker.gpus import visible_gpus
from worker.pipeline.config import PRESETS
from worker.pipeline.errors import ImpossibleLayout
from worker.pipeline.precision import MemoryUse, Precision
from worker.pipeline.rank_counts import check_picture, dit_ranks_of

SIDE_MULTIPLE = 16
STEPS = (2, 4)
FLOAT32 = "float32"
"""The reference of a comparison, beside the names of `Precision`."""


class UnusableOptions(ValueError):
    """Options that no machine could follow, or that do not go together."""


class Device(StrEnum):
    """What the networks run on."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True)
class Plan:
    """Rows and comparisons. Raises `UnusableOptions`."""

    preset: str
    device: Device
    """`AUTO` is settled before: see `resolved_device`."""
    parts: tuple[Part, ...]
    precisions: tuple[str, ...]
    """Names of `Precision`; in comparisons also `FLOAT32`."""
    compare: tuple[str, ...]
    """Two or more precisions, of which the first is the reference; empty for no comparison."""
    steps: tuple[int, ...]
    ranks: tuple[int, ...]
    """Of whole groups: 1, or 1 + the DiT ranks."""
    replicas: int
    """Groups that render at the same time, each a video of its own; other rows are of one."""
    gpus: tuple[int, ...]
    """For rank 0, 1, … of the first group, then of the next; empty for 0, 1, …"""
    width: int
    height: int
    blocks: int
    """Those that count in each row."""
    compared_blocks: int
    memory: MemoryUse
    weights: Path | None
    audio: Path | None
    image: Path | None
    threads: int | None

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UnusableOptions(f"there is no preset {self.preset}; there are {', '.join(PRESETS)}")
        config = PRESETS[self.preset].dit
        if self.width % SIDE_MULTIPLE or self.height % SIDE_MULTIPLE or min(self.width, self.height) < SIDE_MULTIPLE:
            raise UnusableOptions(f"sides of the size are multiples of {SIDE_MULTIPLE}")
        if not set(self.steps) <= set(STEPS):
            raise UnusableOptions("steps are 2 or 4")
        if min(self.blocks, self.compared_blocks) < 1:
            raise UnusableOptions("at least one block has to count")
        if FLOAT32 in self.precisions:
            raise UnusableOptions(f"{FLOAT32} can only be compared with; rows are of {', '.join(Precision)}")
        if len(self.compare) == 1:
            raise UnusableOptions("a comparison takes two precisions or more")
        if (self.audio is None) != (self.image is None):
            raise UnusableOptions("a sound and a portrait go together")
        try:
            for ranks in self.ranks:
                check_picture(config, parts=dit_ranks_of(ranks), height=self.height, width=self.width)
        except ImpossibleLayout as error:
            raise UnusableOptions(f"these ranks cannot be: {error}") from error
        needed = self.replicas * max(self.ranks)
        if self.gpus and len(self.gpus) < needed:
            raise UnusableOptions(f"{needed} ranks need as many GPUs named; one may be named twice")

    def devices(self, ranks: int, *, replica: int = 0) -> tuple[str, ...]:
        """Of a whole group, by rank."""
        if self.device is not Device.CUDA:
            return ("cpu",) * ranks
        mine = slice(replica * ranks, (replica + 1) * ranks)
        return tuple(f"cuda:{gpu}" for gpu in (self.gpus or range(self.replicas * ranks))[mine])

    def dit_devices(self, ranks: int) -> tuple[str, ...]:
        """Of the DiT ranks of such a group; of those alone, which need not leave a GPU to the encoders."""
        parts = dit_ranks_of(ranks)
        return self.devices(ranks)[-parts:] if self.gpus else self.devices(parts)


def resolved_device(wanted: Device) -> Device:
    """A GPU where NVIDIA's driver shows one, else the processor; without the seconds of loading PyTorch."""
    if wanted is not Device.AUTO:
        return wanted
    return Device.CUDA if visible_gpus() else Device.CPU
