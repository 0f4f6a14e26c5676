"""Where one rank's networks run, and how they compute. Knows devices; no network."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.pipeline.errors import UnusablePrecision
from worker.pipeline.precision import MemoryUse, Precision

FP8_CAPABILITY = (8, 9)
"""The first CUDA compute capability that multiplies 8-bit floats."""


@dataclass(frozen=True)
class Compute:
    """The device of one rank and how it computes. Raises `UnusablePrecision`."""

    device: torch.device
    dtype: torch.dtype
    precision: Precision = Precision.FULL
    memory: MemoryUse = MemoryUse.AMPLE

    def __post_init__(self) -> None:
        if self.precision is Precision.FULL:
            return
        if self.device.type != "cuda" or torch.cuda.get_device_capability(self.device) < FP8_CAPABILITY:
            raise UnusablePrecision(
                f"precision {self.precision} needs an NVIDIA GPU of compute capability "
                f"{'.'.join(map(str, FP8_CAPABILITY))} or later; use {Precision.FULL}"
            )

    @classmethod
    def on(
        cls, device: torch.device, *, precision: Precision = Precision.FULL, memory: MemoryUse = MemoryUse.AMPLE
    ) -> Compute:
        """With the dtype that is usual on this kind of device."""
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        return cls(device=device, dtype=dtype, precision=precision, memory=memory)
