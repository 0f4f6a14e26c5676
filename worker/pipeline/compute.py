"""Where one rank's networks run, and how they compute. Knows devices; no network."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.pipeline.errors import UnusablePrecision
from worker.pipeline.graph_pool import GraphPool
from worker.pipeline.precision import FP8_CAPABILITY, MemoryUse, Precision, multiplies_fp8, precision_for


@dataclass(frozen=True)
class Compute:
    """The device of one rank and how it computes. Raises `UnusablePrecision`."""

    device: torch.device
    dtype: torch.dtype
    precision: Precision = Precision.FULL
    memory: MemoryUse = MemoryUse.AMPLE
    graph_pool: GraphPool | None = None
    """For all recordings of this rank; None where there are none."""

    def __post_init__(self) -> None:
        if self.precision is Precision.FULL:
            return
        if not multiplies_fp8(_capability(self.device)):
            raise UnusablePrecision(
                f"precision {self.precision} needs an NVIDIA GPU of compute capability "
                f"{'.'.join(map(str, FP8_CAPABILITY))} or later; use {Precision.FULL}"
            )

    @classmethod
    def on(
        cls, device: torch.device, *, precision: Precision | None = None, memory: MemoryUse = MemoryUse.AMPLE
    ) -> Compute:
        """With the dtype that is usual on this kind of device; without a precision, the one that suits `memory`."""
        on_gpu = device.type == "cuda"
        return cls(
            device=device,
            dtype=torch.bfloat16 if on_gpu else torch.float32,
            precision=precision_for(precision, memory=memory, capability=_capability(device)),
            memory=memory,
            graph_pool=GraphPool(device) if on_gpu else None,
        )


def _capability(device: torch.device) -> tuple[int, int] | None:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None
