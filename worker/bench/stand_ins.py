"""Numbers in place of sound, prompt and picture, for measurements that need no meaning. Knows shapes only.

Random, since a GPU is faster and cooler on numbers that are alike.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worker.pipeline.checkpoint import BundledWeights, RandomWeights, ReleasedWeights, WeightSource
from worker.pipeline.conditioning import LEAD_ROWS
from worker.pipeline.config import AUDIO_SAMPLE_RATE, PIXELS_PER_LATENT, VIDEO_FPS, DiTConfig, PipelineConfig, Tokenizer
from worker.pipeline.dit.audio_net import rows_for
from worker.pipeline.exchange import Beginning
from worker.pipeline.settings import RenderInputs, RenderSettings

SEED = 0
PROMPT = "A character is talking."
PROMPT_ROWS = 8


def weights_from(place: Path | None) -> WeightSource:
    """Those of a bundled file, the released ones in a directory, or drawn ones."""
    if place is None:
        return RandomWeights(SEED)
    return BundledWeights(place) if place.is_file() else ReleasedWeights(place)


def with_byte_tokenizer(config: PipelineConfig) -> PipelineConfig:
    """The same sizes, with the tokenizer that needs no files."""
    return replace(config, text=replace(config.text, tokenizer=Tokenizer.BYTES))


def settings_for(config: DiTConfig, *, height: int, width: int, steps: int, blocks: int) -> RenderSettings:
    """Of a video of exactly so many blocks."""
    return RenderSettings(
        height=height,
        width=width,
        frames=blocks * config.frames_per_block - LEAD_ROWS,
        seed=SEED,
        denoising_steps=steps,
        prompt=PROMPT,
    )


def beginning(config: DiTConfig, *, height: int, width: int) -> Beginning:
    """On the CPU, as it comes from another rank."""
    random = torch.Generator().manual_seed(SEED)
    cells = (height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT)
    prompt = torch.zeros(config.text_len, config.text_dim)
    prompt[:PROMPT_ROWS] = torch.randn(PROMPT_ROWS, config.text_dim, generator=random)
    return Beginning(
        reference=torch.randn(config.in_dim, config.sink_frames, *cells, generator=random),
        prompt=prompt,
        prompt_rows=PROMPT_ROWS,
    )


def window(config: DiTConfig, *, device: torch.device) -> Tensor:
    """Rows of sound for one block, where the audio encoder would have left them."""
    random = torch.Generator().manual_seed(SEED)
    shape = (config.audio_layers, config.audio_dim, rows_for(config.num_frame_per_block))
    return torch.randn(shape, generator=random).to(device)


def inputs_for(settings: RenderSettings) -> RenderInputs:
    """A noisy picture and a noisy sound of the video's length."""
    random = np.random.default_rng(SEED)
    return RenderInputs(
        read_samples=lambda count: 0.1 * random.standard_normal(count, dtype=np.float32),
        total_samples=round(settings.frames / VIDEO_FPS * AUDIO_SAMPLE_RATE),
        image=random.integers(0, 256, (settings.height, settings.width, 3), dtype=np.uint8),
    )
