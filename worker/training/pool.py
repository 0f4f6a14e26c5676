"""Videos for the DiT: drawn, encoded once, and kept on the device with the sound that each block hears.

Knows how a video becomes what the DiT works on, in the way of the pipeline (`worker/pipeline/encoders.py`); no losses.

Shapes: N clips, n blocks of each, f latent frames of a block, c latent channels, h x w latent cells, A width and S
states of the audio encoder, R rows of a window.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from worker.pipeline.audio_encoder import AudioEncoder
from worker.pipeline.conditioning import LEAD_ROWS, audio_windows
from worker.pipeline.config import AUDIO_SAMPLE_RATE, VIDEO_FPS, DiTConfig, PipelineConfig, VAEConfig
from worker.training.acting import Acted, act, joined
from worker.training.drawing import draw
from worker.training.faces import Face, Frame, face
from worker.training.plan import Plan
from worker.training.seeing import autocast
from worker.training.sounds import varied
from worker.training.speech import Utterance

_AT_ONCE = 32
"""Clips that are drawn and encoded together."""
_GAPS_S = (0.15, 1.2)


@dataclass(frozen=True)
class Pool:
    """All clips of one size, in bfloat16 on a GPU."""

    frame: Frame
    latents: Tensor
    """[N, n, c, f, h, w]"""
    references: Tensor
    """[N, c, h, w]: the portraits."""
    windows: Tensor
    """[N, n, S, A, R]"""


@dataclass(frozen=True)
class Part:
    """Who says what."""

    person: Face
    acted: Acted


@dataclass(frozen=True)
class Casting:
    """Makes parts for pictures of one size; that of a number is the same for a seed."""

    frame: Frame
    frames: int
    seed: int

    @classmethod
    def of(cls, plan: Plan, frame: Frame, *, seed: int) -> Casting:
        return cls(frame, frames_of(plan), seed)

    def __call__(self, utterances: Sequence[Utterance], number: int) -> Part:
        generator = np.random.default_rng((self.seed, 6, self.frame.width, number))
        parts: list[Utterance] = []
        while sum(part.duration_s for part in parts) < 1.3 * self.frames / VIDEO_FPS:
            parts.append(utterances[int(generator.integers(len(utterances)))])
        whole = act(varied(joined(parts, gap_s=float(generator.uniform(*_GAPS_S))), generator), seed=number)
        samples = self.frames * AUDIO_SAMPLE_RATE // VIDEO_FPS
        acted = Acted(whole.samples[:samples], whole.track[: self.frames], whole.lids[: self.frames])
        return Part(face(int(generator.integers(2**31))), acted)


def fill_pool(
    parts: Iterable[Part],
    frame: Frame,
    plan: Plan,
    *,
    autoencoder: AutoencoderKLWan,
    hearing: AudioEncoder,
    device: torch.device,
) -> Pool:
    """A clip of each part."""
    kept = torch.bfloat16 if device.type == "cuda" else torch.float32
    latents: list[Tensor] = []
    references: list[Tensor] = []
    windows: list[Tensor] = []
    coming = iter(parts)
    while clips := list(islice(coming, _AT_ONCE)):
        made, portraits = _filmed(clips, frame, plan, autoencoder=autoencoder, device=device)
        latents.append(made.to(kept))
        references.append(portraits.to(kept))
        windows.extend(
            windows_of(clip.acted, plan.config.dit, blocks=plan.pool_blocks, hearing=hearing).to(kept) for clip in clips
        )
    return Pool(frame, torch.cat(latents), torch.cat(references), torch.stack(windows))


def frames_of(plan: Plan) -> int:
    """Pixel frames of a clip."""
    return plan.pool_blocks * plan.config.dit.frames_per_block - LEAD_ROWS


def encoded(autoencoder: AutoencoderKLWan, config: VAEConfig, pixels_B3THW: Tensor) -> Tensor:
    """Normalised latents [B, c, T', h, w] of clips in -1 to 1, as `VideoAutoencoder.encode_video` makes them."""
    mean, std = (pixels_B3THW.new_tensor(v)[:, None, None, None] for v in (config.latents_mean, config.latents_std))
    with autocast(pixels_B3THW.device):
        mode: Tensor = autoencoder.encode(pixels_B3THW).latent_dist.mode()
    return (mode.float() - mean) / std


@torch.no_grad()
def _filmed(
    clips: Sequence[Part], frame: Frame, plan: Plan, *, autoencoder: AutoencoderKLWan, device: torch.device
) -> tuple[Tensor, Tensor]:
    tracks, lids = (
        torch.from_numpy(np.stack(part)).to(device)
        for part in zip(*((clip.acted.track, clip.acted.lids) for clip in clips), strict=True)
    )
    people = [clip.person for clip in clips]
    video = draw(people, frame, tracks_BTK=tracks, lids_BT=lids).transpose(1, 2) * 2 - 1
    portraits = draw(people, frame, tracks_BTK=torch.zeros_like(tracks[:, :1]), lids_BT=torch.zeros_like(lids[:, :1]))
    latents = encoded(autoencoder, plan.config.vae, video)
    references = encoded(autoencoder, plan.config.vae, portraits.transpose(1, 2) * 2 - 1)[:, :, 0]
    blocks = latents.unflatten(2, (plan.pool_blocks, plan.config.dit.num_frame_per_block))  # type: ignore[no-untyped-call]
    return blocks.transpose(1, 2), references


def windows_of(acted: Acted, config: DiTConfig, *, blocks: int, hearing: AudioEncoder) -> Tensor:
    """What the first blocks hear, as the pipeline reads a sound, [n, S, A, R]."""
    rows = hearing.rows(acted.reader(), total_samples=len(acted.samples))
    windows = audio_windows(rows, config)
    return torch.stack([next(windows) for _ in range(blocks)])


def prompts_of(config: PipelineConfig) -> tuple[str, ...]:
    """What is said to the DiT in training. All mean the same, so it learns not to mind."""
    assert config.text.text_len >= 64
    return (
        "A character is talking.",
        "A character is looking at the camera.",
        "A person talks.",
        "A cartoon of a woman who speaks to the camera, with a plain background.",
        "Someone explains something, calmly",
        "",
        "Portrait, talking head, 4k",
        "Ein Mann spricht.",
    )
