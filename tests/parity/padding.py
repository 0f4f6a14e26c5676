"""Lengths of padded sound against the golden of the service (specification, section 13)."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.parity.exact import equal
from tests.parity.golden import Result, load_facts, result
from worker.pipeline.audio_padding import (
    SAMPLES_PER_ROW,
    SEGMENT_SAMPLES,
    audio_rows,
    latent_frames,
    padded_samples,
    video_blocks,
)
from worker.pipeline.config import AUDIO_SAMPLE_RATE, VIDEO_FPS


def check(directory: Path, dtype: torch.dtype) -> Result:
    facts = load_facts(directory, "audio_padding")
    block_frames = facts["samples_per_block"] // SAMPLES_PER_ROW
    differences = [
        equal("sample rate", AUDIO_SAMPLE_RATE, facts["sample_rate"]),
        equal("frames per second", VIDEO_FPS, facts["fps"]),
        equal("samples of a segment", SEGMENT_SAMPLES, facts["segment_samples"]),
        equal(
            "frames of the silence", facts["silence"]["samples"] // SAMPLES_PER_ROW, facts["silence"]["video_frames"]
        ),
    ]
    for case in facts["speech"]:
        samples = case["samples"]
        made = (
            padded_samples(samples),
            padded_samples(samples) - samples,
            audio_rows(samples),
            latent_frames(samples),
            video_blocks(samples, frames_per_block=block_frames),
        )
        golden = tuple(
            case[name] for name in ("padded_samples", "zeros_at_the_end", "video_frames", "latent_frames", "blocks")
        )
        differences.append(equal(f"{samples} samples", made, golden))
    return result("audio padding", differences, limit=0.0)
