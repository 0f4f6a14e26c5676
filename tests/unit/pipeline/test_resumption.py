"""A render that goes on in the middle is the render that never stopped, frame by frame, wherever it was broken off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.pipeline.drawn_inputs import drawn_inputs
from worker.pipeline.audio_mode import AudioMode
from worker.pipeline.checkpoint import Network, RandomWeights
from worker.pipeline.compute import Compute
from worker.pipeline.conditioning import decoded_frames
from worker.pipeline.config import VAEConfig, preset
from worker.pipeline.denoiser import Denoiser, read_times, whole_picture
from worker.pipeline.dit.audio_net import rows_for
from worker.pipeline.dit.dit import DiT
from worker.pipeline.errors import InvalidRender, RenderStopped
from worker.pipeline.noise import block_noise
from worker.pipeline.parallel import RankLayout, SequenceParallel
from worker.pipeline.pipeline import Pipeline, RenderedBlock, RenderInputs, RenderSettings
from worker.pipeline.reach import blocks_needed, latent_frames_seen, replayed_blocks
from worker.pipeline.resumption import Resumption
from worker.pipeline.schedule import denoising_steps
from worker.pipeline.sink_rotation import SinkRotation
from worker.pipeline.vae import VideoAutoencoder

TINY = preset("tiny")
BLOCKS = 20
"""The sink turns from the eleventh on, and the decoder no longer sees the first from the sixteenth on."""

SETTINGS = RenderSettings(
    height=32, width=48, frames=8 * BLOCKS - 5, seed=4, denoising_steps=2, prompt="A character is talking."
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.create(
        TINY, layout=RankLayout.alone(), compute=Compute.on(torch.device("cpu")), weights=RandomWeights(3)
    )


@pytest.fixture(scope="module")
def usual(pipeline: Pipeline) -> list[RenderedBlock]:
    """The blocks of `SETTINGS`, made in one go."""
    return render(pipeline, SETTINGS)


@pytest.mark.parametrize(
    ("settings", "borders"),
    [
        (SETTINGS, range(1, BLOCKS)),
        (replace(SETTINGS, denoising_steps=4, audio_mode=AudioMode.REFERENCE), (1, 11, 18)),
        (replace(SETTINGS, sink_rotation=SinkRotation.REFERENCE_ROUNDING), (9, 10, 17)),
    ],
    ids=["two_steps", "four_steps_of_sound_in_pieces", "rounded_sink"],
)
def test_whichever_block_it_goes_on_at_the_frames_are_the_same(
    pipeline: Pipeline, settings: RenderSettings, borders: Sequence[int]
) -> None:
    whole = render(pipeline, settings)
    assert [len(block.frames) for block in whole] == [*(decoded_frames(TINY.dit, b) for b in range(BLOCKS - 1)), 6]
    for first in borders:
        rest = render(pipeline, settings, going_on_after(whole[:first]))
        assert [block.index for block in rest] == list(range(first, BLOCKS))
        for made, wanted in zip(rest, whole[first:], strict=True):
            assert np.array_equal(made.frames, wanted.frames), f"block {made.index} after going on at {first}"
            assert torch.equal(made.latents, wanted.latents)


def test_only_the_latents_that_are_needed_are_used(pipeline: Pipeline, usual: list[RenderedBlock]) -> None:
    needed = blocks_needed(TINY)
    assert needed < BLOCKS - 1
    rest = render(pipeline, SETTINGS, going_on_after(usual[BLOCKS - 1 - needed : BLOCKS - 1], first=BLOCKS - 1))
    assert np.array_equal(rest[0].frames, usual[-1].frames)


def test_sound_that_is_passed_over_is_told_of(pipeline: Pipeline, usual: list[RenderedBlock]) -> None:
    passed: list[None] = []
    given = replace(inputs(SETTINGS), resumption=going_on_after(usual[:12]), on_passed=lambda: passed.append(None))
    pipeline.prepare(SETTINGS, given)
    assert len(passed) == replayed_blocks(TINY.dit, 12).start


def test_other_latents_lead_to_other_frames(pipeline: Pipeline, usual: list[RenderedBlock]) -> None:
    """So that the tests above compare what depends on the latents."""
    going_on = going_on_after(usual[:10])
    for changed in (9, 8, 0):
        latents = going_on.latents.clone()
        latents[changed] += 0.5
        rest = render(pipeline, SETTINGS, replace(going_on, latents=latents))
        assert not np.array_equal(rest[0].frames, usual[10].frames), f"block {changed} was not looked at"


def test_a_render_that_goes_on_can_be_stopped_while_it_replays(pipeline: Pipeline, usual: list[RenderedBlock]) -> None:
    given = replace(inputs(SETTINGS), resumption=going_on_after(usual[:10]))
    with pytest.raises(RenderStopped, match="block 8"):
        list(pipeline.render(SETTINGS, inputs=given, should_stop=lambda: True))


@pytest.mark.parametrize(
    ("block", "shape"),
    [
        (0, (0, 16, 2, 4, 6)), (BLOCKS, (BLOCKS, 16, 2, 4, 6)), (12, (11, 16, 2, 4, 6)), (12, (13, 16, 2, 4, 6)),
        (12, (12, 16, 2, 6, 4)), (18, (14, 16, 2, 4, 6)),
    ],
)  # fmt: skip
def test_latents_that_do_not_fit_are_refused(pipeline: Pipeline, block: int, shape: Sequence[int]) -> None:
    with pytest.raises(InvalidRender):
        render(pipeline, SETTINGS, Resumption(block=block, latents=torch.zeros(*shape)))


@pytest.mark.parametrize(("layers", "ring"), [(1, 2), (3, 2), (4, 3)])
def test_the_dit_depends_on_so_many_blocks_and_on_no_other(layers: int, ring: int) -> None:
    config = replace(TINY.dit, num_layers=layers, ring_blocks=ring)
    blocks, size = 14, (4, 6)
    with torch.device("meta"):
        dit = DiT(config)
    RandomWeights(4).fill(dit, Network.DIT, device=CPU, dtype=torch.float32)
    drawn = torch.Generator().manual_seed(1)
    reference = torch.randn(config.in_dim, 1, *size, generator=drawn)
    prompt = torch.randn(config.text_len, config.text_dim, generator=drawn)
    windows = torch.randn(blocks, config.audio_layers, config.audio_dim, rows_for(2), generator=drawn)
    steps = denoising_steps(2)

    def noise(block: int, step: int) -> Tensor:
        return block_noise(2, block=block, step=step, shape=(config.in_dim, 2, *size))

    def started() -> Denoiser:
        strips = whole_picture(*size)
        denoiser = Denoiser(
            dit, times=read_times(dit, steps), strips=strips, strip=strips[0],
            sequence=SequenceParallel(size=1, group=None),
        )  # fmt: skip
        # as after another video, so that nothing is right by chance
        denoiser.cache.k_NGHK.normal_(generator=torch.Generator().manual_seed(7))
        denoiser.cache.v_NGHK.normal_(generator=torch.Generator().manual_seed(8))
        denoiser.start(reference, prompt=prompt, prompt_rows=5)
        return denoiser

    def last_after(replayed: range) -> Tensor:
        denoiser = started()
        for block in replayed:
            denoiser.replay(block, window=windows[block], latents=whole[block])
        return denoiser.denoise(blocks - 1, window=windows[-1], noise=noise, steps=steps)

    denoiser = started()
    whole = [denoiser.denoise(block, window=windows[block], noise=noise, steps=steps) for block in range(blocks)]
    needed = replayed_blocks(config, blocks - 1)
    assert len(needed) == layers * (ring - 1)
    assert torch.equal(last_after(needed), whole[-1])
    assert not torch.equal(last_after(range(needed.start + 1, needed.stop)), whole[-1])


@pytest.mark.parametrize("config", [TINY.vae, VAEConfig(base_dim=2)], ids=["tiny", "layers_of_the_released"])
def test_the_decoder_depends_on_so_many_latent_frames_and_on_no_other(config: VAEConfig) -> None:
    autoencoder = VideoAutoencoder(config, device=CPU, dtype=torch.float32, weights=RandomWeights(1))
    seen, last = latent_frames_seen(config), 42
    latents = torch.randn(16, last + 2, 2, 2, generator=torch.Generator().manual_seed(0))
    wanted = autoencoder.decode_stream().decode_pixels(latents)[:, -8:]

    def last_after(frames: int) -> Tensor:
        stream = autoencoder.decode_stream()
        stream.decode_pixels(latents[:, last - frames : last])
        return stream.decode_pixels(latents[:, last:])

    assert torch.equal(last_after(seen), wanted)
    assert not torch.equal(last_after(seen - 1), wanted)


def test_what_the_released_networks_need_is_known() -> None:
    released = preset("14b")
    assert len(replayed_blocks(released.dit, 100)) == 40
    assert latent_frames_seen(released.vae) == 38
    assert blocks_needed(released) == 40


def going_on_after(made: Sequence[RenderedBlock], *, first: int | None = None) -> Resumption:
    latents = torch.stack([block.latents for block in made])
    return Resumption(block=made[-1].index + 1 if first is None else first, latents=latents)


def render(pipeline: Pipeline, settings: RenderSettings, resumption: Resumption | None = None) -> list[RenderedBlock]:
    given = replace(inputs(settings), resumption=resumption)
    return list(pipeline.render(settings, inputs=given, should_stop=lambda: False))


def inputs(settings: RenderSettings) -> RenderInputs:
    return drawn_inputs(settings, samples=settings.frames * 1000)
