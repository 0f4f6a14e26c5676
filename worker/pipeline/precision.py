"""What an operator may trade for speed or memory. Knows names only, so that settings need not load a network."""

from __future__ import annotations

from enum import StrEnum


class Precision(StrEnum):
    """What the DiT multiplies in. The other networks keep their own dtype."""

    FULL = "bf16"
    """The network's dtype throughout: bfloat16 on a GPU, float32 on a processor."""
    FP8 = "fp8"
    """Linears of the layers in 8-bit floats, with a scale for each row of either side."""
    FP8_ATTENTION = "fp8-attention"
    """Self-attention in 8-bit floats as well, the cache included."""


class MemoryUse(StrEnum):
    """How much of the device's memory may be spent on speed."""

    AMPLE = "ample"
    LOW = "low"
    """The text encoder stays on the processor, and a block is decoded in smaller pieces. Where nobody asks for another
    precision and the device can, weights are in 8 bits."""


FP8_CAPABILITY = (8, 9)
"""The first CUDA compute capability that multiplies 8-bit floats."""


def multiplies_fp8(capability: tuple[int, int] | None) -> bool:
    """Of a CUDA compute capability; None: not a GPU, or not known."""
    return capability is not None and capability >= FP8_CAPABILITY


def precision_for(asked: Precision | None, *, memory: MemoryUse, capability: tuple[int, int] | None) -> Precision:
    """What was asked for; of nothing, bf16, or fp8 where memory is to be saved and the device can."""
    if asked is not None:
        return asked
    return Precision.FP8 if memory is MemoryUse.LOW and multiplies_fp8(capability) else Precision.FULL
