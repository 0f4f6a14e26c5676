"""Makes the same video in several ways and says how far each is from the first: flow, latents and pixels.

Knows the encoders, the DiT and the VAE, one after the other: no two of them need fit into memory at once, and what is
to be compared waits on the host. Noise, sound, prompt and picture are the same numbers for every way.
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from worker.bench import place as here
from worker.bench.errors_between import Made, comparison, finite, relative_l2
from worker.bench.jobs import CompareJob
from worker.bench.plan import FLOAT32
from worker.bench.ranks import CannotMeasure, Place, Say
from worker.bench.stand_ins import inputs_for, settings_for, weights_from, with_byte_tokenizer
from worker.bench.stretch import Compared
from worker.media.errors import MediaError
from worker.media.inputs import PictureFile, prepare
from worker.media.length import LengthPolicy
from worker.media.limits import MediaLimits
from worker.media.picture import ExactSize
from worker.media.speech import SpeechFile
from worker.pipeline.compute import Compute
from worker.pipeline.config import PIXELS_PER_LATENT, PipelineConfig, preset
from worker.pipeline.dit_share import DiTShare
from worker.pipeline.encoders import Encoders
from worker.pipeline.exchange import Beginning
from worker.pipeline.noise import block_noise
from worker.pipeline.parallel import RankLayout, SequenceParallel
from worker.pipeline.precision import Precision
from worker.pipeline.schedule import denoising_steps, renoise
from worker.pipeline.settings import RenderInputs, RenderSettings
from worker.pipeline.vae import VideoAutoencoder

SAME_TRAJECTORY = 0.05
"""In relative L2; bfloat16 rounds to 0.4 %."""
DECODED_EVERY = 8
"""Blocks from one whose pixels are compared to the next; the first and the last are as well."""


@dataclass(frozen=True)
class _Given:
    """What every way starts from, on the CPU."""

    settings: RenderSettings
    beginning: Beginning
    windows: tuple[Tensor, ...]


def measure(job: CompareJob, place: Place, say: Say) -> Compared:
    """Raises `CannotMeasure`."""
    with here.taken(place) as device:
        return _measure(job, device, say)


def _measure(job: CompareJob, device: torch.device, say: Say) -> Compared:
    config = preset(job.preset)
    if job.weights is None:
        config = with_byte_tokenizer(config)
    say("encoding sound, prompt and picture")
    given = _encoded(config, job, device)
    noisy: list[Tensor] = []
    undecoded = []
    for way in job.ways:
        say(f"comparing {', '.join(job.ways)}: {way}, {job.steps} steps, {job.blocks} blocks")
        undecoded.append(_made(config, job, way, device, given, noisy))
        _let_go(device)
    say("decoding")
    autoencoder = VideoAutoencoder(
        config.vae, device=device, dtype=Compute.on(device).dtype, weights=weights_from(job.weights)
    )
    reference, *others = [
        Made(way=made.way, flows=made.flows, latents=made.latents, frames=_decoded(autoencoder, made.latents))
        for made in undecoded
    ]
    timesteps = [step.timestep for step in denoising_steps(job.steps)]
    return Compared(
        versions=here.versions(device),
        comparisons=tuple(comparison(made, reference, timesteps=timesteps) for made in others),
    )


def compute_of(way: str, device: torch.device) -> Compute:
    """A precision by its name, on any device: bfloat16 on a CPU as well. Raises `UnusablePrecision`."""
    if way == FLOAT32:
        return replace(Compute.on(device), dtype=torch.float32, graph_pool=None)  # the plain path is not recorded
    return replace(Compute.on(device, precision=Precision(way)), dtype=torch.bfloat16)


def _encoded(config: PipelineConfig, job: CompareJob, device: torch.device) -> _Given:
    settings = settings_for(config.dit, height=job.height, width=job.width, steps=job.steps, blocks=job.blocks)
    encoders = Encoders.load(config, compute=Compute.on(device), weights=weights_from(job.weights))
    with _inputs(job, settings) as inputs:
        encoded = encoders.encode(settings, inputs)
        beginning = encoded.beginning
        given = _Given(
            settings=settings,
            beginning=Beginning(
                reference=beginning.reference.cpu(), prompt=beginning.prompt.cpu(), prompt_rows=beginning.prompt_rows
            ),
            windows=tuple(window.cpu() for window in islice(encoded.windows, job.blocks)),
        )
    del encoders, encoded
    _let_go(device)
    return given


@contextmanager
def _inputs(job: CompareJob, settings: RenderSettings) -> Iterator[RenderInputs]:
    """Of the files that were named, else stand-ins. Raises `CannotMeasure` for unusable files."""
    if job.audio is None or job.image is None:
        yield inputs_for(settings)
        return
    with tempfile.TemporaryDirectory(prefix="realvideo-bench-") as directory:
        try:
            prepared = prepare(
                job.audio,
                PictureFile(job.image),
                size=ExactSize(width=job.width, height=job.height),
                duration_s=None,
                length_policy=LengthPolicy.REJECT,
                limits=MediaLimits(),
                into=Path(directory),
            )
        except MediaError as error:
            raise CannotMeasure(error.message) from error
        with SpeechFile(prepared.speech) as speech, Image.open(prepared.picture, formats=["PNG"]) as picture:
            yield RenderInputs(
                read_samples=speech.read, total_samples=speech.samples, image=np.array(picture.convert("RGB"))
            )


def _made(
    config: PipelineConfig, job: CompareJob, way: str, device: torch.device, given: _Given, noisy: list[Tensor]
) -> Made:
    """One video, not decoded. `noisy` are the latents before each step of the first block; the first way adds them."""
    share = DiTShare.load(
        config.dit,
        sequence=SequenceParallel(size=1, group=None),
        layout=RankLayout.alone(),
        compute=compute_of(way, device),
        weights=weights_from(job.weights),
    )
    windows = [window.to(device) for window in given.windows]
    session = share.begin(given.settings, given.beginning)
    flows: list[Tensor] = []
    shape = _latents_shape(config, job)
    for step in denoising_steps(job.steps):
        if len(noisy) == step.index:
            noisy.append(_noisy(noisy, flows, step.index, given.settings, shape))
        flows.append(finite(session.flow(0, window=windows[0], latents=noisy[step.index], step=step)))
    session = share.begin(given.settings, given.beginning)
    latents = [finite(session.make(block, window=window)) for block, window in enumerate(windows)]
    if way == job.ways[0]:
        _check_trajectory(noisy, flows, latents[0], given.settings)
    return Made(way=way, flows=tuple(flows), latents=tuple(latents), frames={})


def _noisy(
    noisy: list[Tensor], flows: list[Tensor], index: int, settings: RenderSettings, shape: tuple[int, ...]
) -> Tensor:
    """The latents before a step, from the flow of the one before it."""
    noise = block_noise(settings.seed, block=0, step=index, shape=shape)
    if index == 0:
        return noise
    before = denoising_steps(settings.denoising_steps)[index - 1]
    assert before.next_sigma is not None, "a step follows"
    return renoise(before.clean(noisy[-1], flows[-1]), noise, sigma=before.next_sigma)


def _check_trajectory(noisy: list[Tensor], flows: list[Tensor], latents: Tensor, settings: RenderSettings) -> None:
    """The forwards taken one by one lead to the first block of the stream, but for rounding in between."""
    last = denoising_steps(settings.denoising_steps)[-1]
    apart = relative_l2(last.clean(noisy[-1], flows[-1]), latents)
    if apart > SAME_TRAJECTORY:
        raise ArithmeticError(f"forwards by themselves end {apart:.1%} away from the block that they should make")


def _latents_shape(config: PipelineConfig, job: CompareJob) -> tuple[int, ...]:
    cells = (job.height // PIXELS_PER_LATENT, job.width // PIXELS_PER_LATENT)
    return (config.dit.in_dim, config.dit.num_frame_per_block, *cells)


def _decoded(autoencoder: VideoAutoencoder, latents: tuple[Tensor, ...]) -> dict[int, NDArray[np.uint8]]:
    """Frames of the blocks whose pixels are compared. All are decoded: the decoder remembers."""
    stream = autoencoder.decode_stream()
    kept = {}
    for block, one in enumerate(latents):
        frames = stream.decode(one)
        if block % DECODED_EVERY == 0 or block == len(latents) - 1:
            kept[block] = frames
    return kept


def _let_go(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
