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
    """The text encoder stays on the processor, and a block is decoded in smaller pieces."""
