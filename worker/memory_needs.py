"""How much of a GPU's memory the ranks on it take.

Knows figures, measured or computed, and where each is from. Nothing is asked of a GPU here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from worker.gpus import Gpu
from worker.pipeline.precision import MemoryUse, Precision, precision_for

GIB = 2**30
CONTEXT_GIB = 0.6
"""What CUDA and its libraries take for each process, beside what the process allocates."""


class Role(StrEnum):
    """What one rank holds."""

    ALL = "everything"
    ENCODERS = "the encoders and the VAE"
    DIT = "the DiT"


@dataclass(frozen=True)
class _Peak:
    """GiB at 480 × 640: weights, caches and what passes, at the worst moment."""

    dit: Mapping[tuple[Precision, MemoryUse], float]
    encoders: Mapping[MemoryUse, float]


_PEAKS: Mapping[str, _Peak] = MappingProxyType(
    {
        "14b": _Peak(
            dit={
                (Precision.FULL, MemoryUse.AMPLE): 35.9,  # measured on H200
                (Precision.FULL, MemoryUse.LOW): 35.9,  # the same
                (Precision.FP8, MemoryUse.AMPLE): 25.4,  # measured
                (Precision.FP8, MemoryUse.LOW): 21.0,  # measured: everything takes 25.6
                (Precision.FP8_ATTENTION, MemoryUse.AMPLE): 22.9,  # measured
                (Precision.FP8_ATTENTION, MemoryUse.LOW): 18.5,  # computed: the first, less what weights and cache save
            },
            encoders={
                MemoryUse.AMPLE: 15.0,  # computed: 17.0 were measured, with the 2 of the table of words, which has left
                MemoryUse.LOW: 4.6,  # computed: the same without the text encoder, and with less to decode at once
            },
        )
    }
)
"""A preset that is not here fits every GPU."""


@dataclass(frozen=True)
class Demand:
    """What is to run, as far as memory depends on it."""

    preset: str
    precision: Precision | None
    """None: as `precision_for` chooses on the GPU in question."""
    memory: MemoryUse

    def gib(self, roles: Iterable[Role], gpu: Gpu) -> float:
        """Of one GPU on which ranks of these roles run; zero for a preset that fits everywhere."""
        peak = _PEAKS.get(self.preset)
        if peak is None:
            return 0.0
        precision = precision_for(self.precision, memory=self.memory, capability=gpu.capability)
        dit = peak.dit[precision, self.memory]
        encoders = peak.encoders[self.memory]
        of_role = {Role.ALL: dit + encoders, Role.DIT: dit, Role.ENCODERS: encoders}
        return sum(of_role[role] + CONTEXT_GIB for role in roles)

    def fits(self, roles: Iterable[Role], gpu: Gpu) -> bool:
        """A GPU that does not tell its memory is taken to have enough."""
        return gpu.memory_bytes is None or self.gib(roles, gpu) * GIB <= gpu.memory_bytes
