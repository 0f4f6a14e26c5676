"""Where the frames of a clip come from: the pipeline with its weights, or the pencil that knows the truth."""

import time
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from tests.bench.avatar.clips import Clip
from worker.pipeline.checkpoint.bundled import BundledWeights
from worker.pipeline.compute import Compute
from worker.pipeline.config import AVATAR
from worker.pipeline.parallel import RankLayout
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.prompt import USUAL_PROMPT
from worker.pipeline.settings import RenderInputs, RenderSettings
from worker.training.drawing import draw, portrait, to_uint8


class Source(Protocol):
    """Films a clip."""

    def frames(self, clip: Clip) -> np.ndarray:
        """uint8 [T, H, W, 3]."""
        ...


class Rendered:
    """The avatar as a user gets it. Raises `CheckpointError`."""

    def __init__(self, weights: Path, *, device: str = "cpu") -> None:
        compute = Compute.on(torch.device(device))
        self._pipeline = Pipeline.create(
            AVATAR, layout=RankLayout.alone(), compute=compute, weights=BundledWeights(weights)
        )

    def frames(self, clip: Clip) -> np.ndarray:
        """uint8 [T, H, W, 3]."""
        settings = RenderSettings(
            height=clip.frame.height,
            width=clip.frame.width,
            frames=len(clip.acted.track),
            seed=0,
            denoising_steps=2,
            prompt=USUAL_PROMPT,
        )
        inputs = RenderInputs(
            read_samples=clip.acted.reader(),
            total_samples=len(clip.acted.samples),
            image=portrait(clip.person, clip.frame),
        )
        blocks = self._pipeline.render(settings, inputs=inputs, should_stop=lambda: False)
        return np.concatenate([block.frames for block in blocks])


class Timed:
    """Another source, and how fast it is."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._frames = 0
        self._seconds = 0.0

    @property
    def frames_per_second(self) -> float:
        return self._frames / max(self._seconds, 1e-9)

    def frames(self, clip: Clip) -> np.ndarray:
        """uint8 [T, H, W, 3]."""
        began = time.monotonic()
        frames = self._source.frames(clip)
        self._seconds += time.monotonic() - began
        self._frames += len(frames)
        return frames


class Drawn:
    """The truth itself: what the limits are proven on."""

    def frames(self, clip: Clip) -> np.ndarray:
        """uint8 [T, H, W, 3]."""
        tracks, lids = torch.from_numpy(clip.acted.track)[None], torch.from_numpy(clip.acted.lids)[None]
        return to_uint8(draw([clip.person], clip.frame, tracks_BTK=tracks, lids_BT=lids)[0]).numpy()
