"""The two ways to turn the reference frame's keys. Knows their names, so that settings need not load a network."""

from __future__ import annotations

from enum import StrEnum


class SinkRotation(StrEnum):
    """How the reference frame's keys (the sink) come to their position in a long video (specification, 5 and 17)."""

    EXACT = "exact"
    """The keys as of position 30 are kept, and a copy is turned by the whole angle: no error builds up."""
    REFERENCE_ROUNDING = "reference_rounding"
    """Turned by one position at a time, in place and in the dtype of the cache, as the released code does (quirk 2)."""
