"""How many samples, rows, latent frames and blocks a sound comes to (specification, section 13).

Knows counts only.
"""

from __future__ import annotations

from worker.pipeline.config import AUDIO_SAMPLE_RATE, FRAMES_PER_LATENT, VIDEO_FPS

SAMPLES_PER_ROW = AUDIO_SAMPLE_RATE // VIDEO_FPS
"""Samples that one pixel frame lasts."""

SEGMENT_SAMPLES = 5 * AUDIO_SAMPLE_RATE
"""Longest piece of speech that the reference encodes at once."""


def padded_samples(samples: int) -> int:
    """Samples of the sound once zeros behind it fill its last second. Raises ValueError below one sample."""
    if samples < 1:
        raise ValueError(f"a sound of {samples} samples holds nothing")
    return -(-samples // AUDIO_SAMPLE_RATE) * AUDIO_SAMPLE_RATE


def audio_rows(samples: int) -> int:
    """Audio rows, and so pixel frames, of the padded sound: 16 for every begun second."""
    return padded_samples(samples) // SAMPLES_PER_ROW


def latent_frames(samples: int) -> int:
    """Latent frames that belong to the padded sound."""
    return audio_rows(samples) // FRAMES_PER_LATENT


def video_blocks(samples: int, *, frames_per_block: int) -> int:
    """Blocks that belong to the padded sound, for blocks of so many pixel frames."""
    return -(-audio_rows(samples) // frames_per_block)
