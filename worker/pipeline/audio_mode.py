"""The two ways to encode a long sound. Knows their names, so that settings need not load a network."""

from __future__ import annotations

from enum import StrEnum


class AudioMode(StrEnum):
    WINDOWED = "windowed"
    """Overlapping windows of 30 s, normalised as one sound: no seams, and no more memory for an hour."""
    REFERENCE = "reference"
    """Pieces of 5 s that know nothing of each other, as the released service encodes speech (specification, 13)."""
