"""Rank 0's part of a render: sound, prompt and picture in, and latents to frames on the way out.

Knows the three encoders' and the decoder's networks and how a stream of frames is trimmed to the length asked for. The
sound is read as a stream, so its rows never exist all at once (specification, sections 9 to 13).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from worker.pipeline.audio_encoder import AudioEncoder
from worker.pipeline.checkpoint import WeightSource
from worker.pipeline.compute import Compute
from worker.pipeline.conditioning import LEAD_ROWS, audio_windows, block_count
from worker.pipeline.config import FRAMES_PER_LATENT, PipelineConfig
from worker.pipeline.dit.kernels import exact_dtype
from worker.pipeline.errors import InvalidRender
from worker.pipeline.exchange import Beginning
from worker.pipeline.precision import MemoryUse
from worker.pipeline.prompt import USUAL_PROMPT
from worker.pipeline.reach import latent_frames_seen, replayed_blocks
from worker.pipeline.resumption import Resumption
from worker.pipeline.settings import RenderInputs, RenderSettings
from worker.pipeline.text_encoder import TextEmbedding, TextEncoder
from worker.pipeline.vae import VideoAutoencoder
from worker.pipeline.vae_stream import DecodeStream, FramesOnTheWay

PROMPTS_KEPT = 16
"""Encoded prompts that are remembered; nearly all renders use one of a few."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Encoded:
    """What the DiT needs: the beginning, and then a window of sound for each block, made as it is asked for."""

    beginning: Beginning
    windows: Iterator[Tensor]
    """From the first block on that is replayed or made."""
    resumption: Resumption | None = None


class Encoders:
    """The encoders and the VAE."""

    def __init__(
        self, config: PipelineConfig, *, text: TextEncoder, audio: AudioEncoder, vae: VideoAutoencoder
    ) -> None:
        self._config = config
        self._text = text
        self._audio = audio
        self._vae = vae
        self._prompts: dict[str, TextEmbedding] = {}

    @classmethod
    def load(cls, config: PipelineConfig, *, compute: Compute, weights: WeightSource) -> Encoders:
        """Raises `CheckpointError`."""
        device, dtype = compute.device, compute.dtype
        encoders = cls(
            config,
            text=TextEncoder(config.text, device=device, dtype=dtype, weights=weights, memory=compute.memory),
            audio=AudioEncoder(config.audio, device=device, dtype=exact_dtype(dtype), weights=weights),
            vae=VideoAutoencoder(
                config.vae,
                device=device,
                dtype=dtype,
                weights=weights,
                memory=compute.memory,
                graph_pool=compute.graph_pool,
            ),
        )
        if compute.memory is MemoryUse.LOW:
            encoders._prompt(USUAL_PROMPT)  # on the host that takes seconds, which no job should wait for
        return encoders

    def encode(self, settings: RenderSettings, inputs: RenderInputs | None) -> Encoded:
        """Raises `InvalidRender` for inputs that do not fit the settings, and what reading the sound raises."""
        if inputs is None:
            raise InvalidRender("the rank with the encoders was given no inputs")
        if inputs.image.shape != (settings.height, settings.width, 3) or inputs.image.dtype != np.uint8:
            raise InvalidRender(
                f"the picture is {inputs.image.dtype} {list(inputs.image.shape)}, "
                f"must be uint8 [{settings.height}, {settings.width}, 3]"
            )
        resumption = inputs.resumption
        if resumption is not None:
            resumption.check(self._config, settings, blocks=block_count(self._config.dit, settings.frames))
        first = 0 if resumption is None else resumption.block
        prompt = self._prompt(settings.prompt)
        reference = self._vae.encode_image(inputs.image)
        rows = self._audio.rows(inputs.read_samples, total_samples=inputs.total_samples, mode=settings.audio_mode)
        return Encoded(
            beginning=Beginning(reference=reference, prompt=prompt.rows, prompt_rows=prompt.length, first_block=first),
            windows=audio_windows(
                rows,
                self._config.dit,
                first_block=min(replayed_blocks(self._config.dit, first), default=first),
                on_passed=inputs.on_passed,
            ),
            resumption=resumption,
        )

    def decoder(self, settings: RenderSettings, *, resumption: Resumption | None) -> FrameDecoder:
        """For one render: takes its latents block by block, and gives `settings.frames` frames in all, or what is left
        of them. Latents before a resumption are decoded again as far back as they matter, and their frames let go."""
        stream = self._vae.decode_stream()
        if resumption is None:
            return FrameDecoder(stream, frames=settings.frames)
        per_block = self._config.dit.num_frame_per_block
        seen = -(-latent_frames_seen(self._config.vae) // per_block)
        for latents in resumption.of(range(max(0, resumption.block - seen), resumption.block)):
            stream.begin(latents).wait()
        return FrameDecoder(stream, frames=settings.frames, latent_frames_before=resumption.block * per_block)

    def _prompt(self, prompt: str) -> TextEmbedding:
        if prompt not in self._prompts:
            if len(self._prompts) == PROMPTS_KEPT:
                del self._prompts[next(iter(self._prompts))]
            began = time.monotonic()
            self._prompts[prompt] = self._text.encode(prompt)
            log.info("a prompt was encoded in %.1f s", time.monotonic() - began)
        return self._prompts[prompt]


class FrameDecoder:
    """Latents of one block after the other to frames, until as many are out as were asked for."""

    def __init__(self, stream: DecodeStream, *, frames: int, latent_frames_before: int = 0) -> None:
        """`stream` is behind that many latent frames, whose frames count as given."""
        self._stream = stream
        self._frames = frames
        self._latent_frames = latent_frames_before

    def begin(self, latents: Tensor) -> FramesOnTheWay:
        """Asks for the frames of latents [c, f, h, w]: uint8 [n, height, width, 3]; the last block may be cut short."""
        before = pixel_frames(self._latent_frames)
        self._latent_frames += latents.shape[1]
        after = pixel_frames(self._latent_frames)
        kept = min(after, self._frames) - min(before, self._frames)
        return _FirstFrames(self._stream.begin(latents), kept)


@dataclass(frozen=True)
class _FirstFrames:
    """So many of the frames that are on their way."""

    on_the_way: FramesOnTheWay
    kept: int

    def wait(self) -> NDArray[np.uint8]:
        frames = self.on_the_way.wait()
        return frames[: self.kept]


def pixel_frames(latent_frames: int) -> int:
    """Frames of a stream of so many latent frames: one for the first, four for every other."""
    return max(0, FRAMES_PER_LATENT * latent_frames - LEAD_ROWS)
