"""Whole renders by one rank on the tiny networks."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.unit.pipeline.drawn_inputs import drawn_inputs, reader
from worker.pipeline.audio_mode import AudioMode
from worker.pipeline.checkpoint import RandomWeights
from worker.pipeline.compute import Compute
from worker.pipeline.config import preset
from worker.pipeline.errors import InvalidRender, RenderStopped
from worker.pipeline.parallel import RankLayout
from worker.pipeline.pipeline import Pipeline, RenderedBlock, RenderInputs, RenderSettings
from worker.pipeline.sound import UnusableSound

SETTINGS = RenderSettings(height=48, width=32, frames=20, seed=1, denoising_steps=2, prompt="A character.")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.create(
        preset("tiny"),
        layout=RankLayout.alone(),
        compute=Compute.on(torch.device("cpu")),
        weights=RandomWeights(0),
    )


def inputs(settings: RenderSettings, *, seconds: float = 2) -> RenderInputs:
    return drawn_inputs(settings, samples=int(seconds * 16_000))


def render(pipeline: Pipeline, settings: RenderSettings, given: RenderInputs | None = None) -> list[RenderedBlock]:
    return list(pipeline.render(settings, inputs=given or inputs(settings), should_stop=lambda: False))


@pytest.mark.parametrize(
    ("frames", "counts"), [(1, [1]), (5, [5]), (6, [5, 1]), (13, [5, 8]), (20, [5, 8, 7]), (32, [5, 8, 8, 8, 3])]
)
def test_exactly_the_frames_asked_for_come_out_block_by_block(
    pipeline: Pipeline, frames: int, counts: list[int]
) -> None:
    blocks = render(pipeline, replace(SETTINGS, frames=frames))
    assert [len(block.frames) for block in blocks] == counts
    assert [block.index for block in blocks] == list(range(len(counts)))
    assert {block.blocks_total for block in blocks} == {len(counts)}
    assert all(block.frames.shape[1:] == (48, 32, 3) and block.frames.dtype == np.uint8 for block in blocks)


def test_a_render_is_repeated_by_its_seed_and_changed_by_another(pipeline: Pipeline) -> None:
    first, again, other = (
        np.concatenate([block.frames for block in render(pipeline, replace(SETTINGS, seed=seed))]) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_longer_render_begins_like_a_shorter_one(pipeline: Pipeline) -> None:
    given = {frames: inputs(SETTINGS) for frames in (13, 29)}
    short, long = (render(pipeline, replace(SETTINGS, frames=n), given[n]) for n in (13, 29))
    for a, b in zip(short, long, strict=False):
        assert np.array_equal(a.frames, b.frames)


@pytest.mark.parametrize("steps", [2, 4])
def test_sound_prompt_and_picture_all_reach_the_frames(pipeline: Pipeline, steps: int) -> None:
    settings = replace(SETTINGS, denoising_steps=steps)
    plain = render(pipeline, settings)[-1].frames
    given = inputs(settings)
    reversed_picture = replace(given, image=np.ascontiguousarray(given.image[::-1]))
    other_sound = replace(inputs(settings), read_samples=reader(np.sin(np.arange(32_000) / 9).astype(np.float32)))
    assert not np.array_equal(plain, render(pipeline, settings, reversed_picture)[-1].frames)
    assert not np.array_equal(plain, render(pipeline, settings, other_sound)[-1].frames)
    assert not np.array_equal(plain, render(pipeline, replace(settings, prompt="Nobody."))[-1].frames)


def test_a_stop_takes_hold_before_the_next_block(pipeline: Pipeline) -> None:
    seen: list[int] = []
    blocks = pipeline.render(SETTINGS, inputs=inputs(SETTINGS), should_stop=lambda: len(seen) == 2)
    with pytest.raises(RenderStopped, match="block 2"):
        note_indices(blocks, seen)
    assert seen == [0, 1]
    assert len(render(pipeline, SETTINGS)) == 3, "the pipeline goes on"


def note_indices(blocks: Iterable[RenderedBlock], seen: list[int]) -> None:
    for block in blocks:
        seen.append(block.index)  # noqa: PERF401 - what was seen before the stop counts


def test_memory_does_not_grow_with_the_length(pipeline: Pipeline) -> None:
    # pieces of 5 s: every tenth block finds as many rows waiting as the tenth before it
    settings = replace(SETTINGS, height=16, width=16, frames=16 * 40, audio_mode=AudioMode.REFERENCE)
    held: list[int] = []
    frames: list[weakref.ref[NDArray[np.uint8]]] = []
    for block in pipeline.render(settings, inputs=inputs(settings, seconds=40), should_stop=lambda: False):
        frames.append(weakref.ref(block.frames))
        if block.index in (14, 44, 74):
            gc.collect()
            tensors = [t for t in gc.get_objects() if issubclass(type(t), torch.Tensor)]
            held.append(sum(t.untyped_storage().nbytes() for t in tensors))
            del tensors
    assert held == held[:1] * 3
    assert sum(ref() is not None for ref in frames) <= 1, "only the block at hand is kept"


def test_inputs_that_do_not_fit_are_refused(pipeline: Pipeline) -> None:
    given = inputs(SETTINGS)
    with pytest.raises(InvalidRender, match=r"\[32, 48, 3\].*\[48, 32, 3\]"):
        render(pipeline, SETTINGS, replace(given, image=given.image.transpose(1, 0, 2)))
    with pytest.raises(InvalidRender, match="float64"):
        render(pipeline, SETTINGS, replace(given, image=given.image / 255))
    with pytest.raises(UnusableSound, match="ends 100 samples"):
        render(pipeline, SETTINGS, replace(given, total_samples=given.total_samples + 100))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"height": 40}, "height is 40, must be a multiple of 16"),
        ({"width": 0}, "width is 0"),
        ({"frames": 0}, "at least 1"),
        ({"denoising_steps": 3}, "2 or 4"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_the_network_cannot_make_are_refused(changed: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidRender, match=message):
        replace(SETTINGS, **changed)
