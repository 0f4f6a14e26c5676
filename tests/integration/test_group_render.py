"""Renders by a group of real processes over gloo: the same frames as by one, and every way out of a render."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.integration.rank_processes import RankFailed, RankProcesses, rank_processes
from worker.pipeline.checkpoint import RandomWeights
from worker.pipeline.compute import Compute
from worker.pipeline.config import preset
from worker.pipeline.errors import PeerLost, RenderAborted, RenderStopped
from worker.pipeline.exchange import EncoderLink, PacketShapes, connect_all_ranks
from worker.pipeline.parallel import RankLayout, cut
from worker.pipeline.pipeline import Pipeline, RenderedBlock, RenderInputs, RenderSettings
from worker.pipeline.resumption import Resumption
from worker.pipeline.sound import UnusableSound

FRAMES = 107
"""14 blocks, so that the sink turns, and a last block that is cut short."""

SETTINGS = RenderSettings(
    height=64, width=96, frames=FRAMES, seed=5, denoising_steps=2, prompt="A character is talking."
)


@pytest.fixture(scope="module")
def alone() -> NDArray[np.uint8]:
    """The frames of a single rank."""
    pipeline = create(RankLayout.alone())
    blocks = pipeline.render(SETTINGS, inputs=inputs(FRAMES), should_stop=lambda: False)
    return np.concatenate([block.frames for block in blocks])


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request: pytest.FixtureRequest) -> Iterator[RankProcesses]:
    with rank_processes(request.param) as processes:
        yield processes


def test_a_group_makes_the_frames_of_a_single_rank(ranks: RankProcesses, alone: NDArray[np.uint8]) -> None:
    counts, frames = ranks.run(render_all)[0]
    assert counts == [5, *[8] * 12, 6]
    assert frames.shape == (FRAMES, 64, 96, 3)
    assert np.abs(frames.astype(int) - alone).max() <= 1
    assert frames.std() > 10, "a picture, not a surface"


def test_a_stop_ends_every_rank_at_the_same_block_and_frees_the_group(
    ranks: RankProcesses, alone: NDArray[np.uint8]
) -> None:
    outcomes = ranks.run(render_until_stopped)
    assert outcomes == [("stopped", 4)] * len(outcomes)
    assert np.abs(ranks.run(render_all)[0][1].astype(int) - alone).max() <= 1


def test_a_render_that_goes_on_in_the_middle_makes_the_frames_of_one_that_never_stopped(ranks: RankProcesses) -> None:
    whole, latents = ranks.run(render_with_latents, None)[0]
    for first in (1, 2, 7, 11, 13):
        going_on = Resumption(block=first, latents=torch.stack(latents[:first]))
        rest, _ = ranks.run(render_with_latents, going_on)[0]
        assert len(rest) == len(whole) - first
        assert all(np.array_equal(made, wanted) for made, wanted in zip(rest, whole[first:], strict=True))


def test_a_stop_while_blocks_are_replayed_ends_every_rank_and_frees_the_group(
    ranks: RankProcesses, alone: NDArray[np.uint8]
) -> None:
    _, latents = ranks.run(render_with_latents, None)[0]
    outcomes = ranks.run(stop_while_replaying, Resumption(block=9, latents=torch.stack(latents[:9])))
    assert outcomes == [("stopped", 8)] * len(outcomes)
    assert np.abs(ranks.run(render_all)[0][1].astype(int) - alone).max() <= 1


@pytest.mark.parametrize("way_out", ["sound_ends_early", "leave_early", "decline", "no_inputs"])
def test_a_failure_of_rank_0_frees_the_group(ranks: RankProcesses, alone: NDArray[np.uint8], way_out: str) -> None:
    first, *others = ranks.run(leave, way_out)
    assert first == way_out
    assert others == ["aborted"] * len(others)
    assert np.abs(ranks.run(render_all)[0][1].astype(int) - alone).max() <= 1


def test_a_rank_that_dies_or_falls_silent_is_noticed_by_rank_0() -> None:
    with rank_processes(2) as ranks:
        ranks.run(connect)
        ranks.send(wait_for_latents, ranks=range(1))
        with pytest.raises(RankFailed, match=PeerLost.__name__):
            ranks.answer(0)  # the other rank lives, but does nothing, until the group's timeout
    with rank_processes(2) as ranks:
        ranks.run(connect)
        ranks.send(wait_for_latents, ranks=range(1))
        ranks.end_abruptly(1)
        with pytest.raises(RankFailed, match=PeerLost.__name__):
            ranks.answer(0)


# What the ranks do


def render_all(rank: int, size: int) -> tuple[list[int], NDArray[np.uint8]] | None:
    made = [block.frames for block in start(rank, size, should_stop=lambda: False)]
    if rank:
        assert not made, "frames come out of rank 0 only"
        return None
    return [len(frames) for frames in made], np.concatenate(made)


def render_until_stopped(rank: int, size: int) -> tuple[str, int]:
    """Rank 0 asks once for each block, so the fifth question is about block 4."""
    questions = iter([False] * 4 + [True] * 100)
    try:
        for _ in start(rank, size, should_stop=lambda: next(questions)):
            pass
    except RenderStopped as stopped:
        return "stopped", stopped.block
    return "finished", 0


def render_with_latents(rank: int, size: int, resumption: Resumption | None) -> tuple[list[Any], list[Any]]:
    """Frames and latents of each block."""
    given = None if rank else replace(inputs(FRAMES), resumption=resumption)
    made = list(pipeline_of(rank, size).render(SETTINGS, inputs=given, should_stop=lambda: False))
    return [block.frames for block in made], [block.latents for block in made]


def stop_while_replaying(rank: int, size: int, resumption: Resumption) -> tuple[str, int]:
    questions = iter([False, True, True])
    given = None if rank else replace(inputs(FRAMES), resumption=resumption)
    try:
        for _ in pipeline_of(rank, size).render(SETTINGS, inputs=given, should_stop=lambda: next(questions)):
            pass
    except RenderStopped as stopped:
        return "stopped", stopped.block
    return "finished", 0


def leave(rank: int, size: int, way_out: str) -> str:
    try:
        if rank:
            for _ in start(rank, size, should_stop=lambda: False):
                pass
            return "finished"
        return globals()[way_out](size)
    except RenderAborted:
        return "aborted"


def sound_ends_early(size: int) -> str:
    short = inputs(FRAMES - 20)
    broken = RenderInputs(read_samples=short.read_samples, total_samples=FRAMES * 1000, image=short.image)
    with pytest.raises(UnusableSound):
        list(pipeline_of(0, size).render(SETTINGS, inputs=broken, should_stop=lambda: False))
    return "sound_ends_early"


def leave_early(size: int) -> str:
    with closing(start(0, size, should_stop=lambda: False)) as blocks:
        next(blocks)
    return "leave_early"


def decline(size: int) -> str:
    pipeline_of(0, size).decline(SETTINGS)
    return "decline"


def no_inputs(size: int) -> str:
    with pytest.raises(ValueError, match="no inputs"):
        list(pipeline_of(0, size).render(SETTINGS, inputs=None, should_stop=lambda: False))
    return "no_inputs"


def connect(rank: int, size: int) -> None:
    layout = RankLayout(rank=rank, world_size=size, timeout=timedelta(seconds=3))
    group = connect_all_ranks(layout)
    assert group is not None
    config = preset("tiny").dit
    shapes = PacketShapes.of(config, cut(config, height=64, width=96, parts=1))
    _links[rank] = EncoderLink(group, layout, shapes, blocks=5, dtype=torch.float32)


def wait_for_latents(rank: int, size: int) -> None:
    _links[rank].latents()


# What they have


_links: dict[int, EncoderLink] = {}

_pipelines: dict[tuple[int, int], Pipeline] = {}


def start(rank: int, size: int, *, should_stop: Callable[[], bool]) -> Generator[RenderedBlock, None, None]:
    given = None if rank else inputs(FRAMES)
    return pipeline_of(rank, size).render(SETTINGS, inputs=given, should_stop=should_stop)


def pipeline_of(rank: int, size: int) -> Pipeline:
    """A process keeps its pipeline from one render to the next."""
    if (rank, size) not in _pipelines:
        _pipelines[rank, size] = create(RankLayout(rank=rank, world_size=size))
    return _pipelines[rank, size]


def create(layout: RankLayout) -> Pipeline:
    return Pipeline.create(
        preset("tiny"),
        layout=layout,
        compute=Compute.on(torch.device("cpu")),
        weights=RandomWeights(3),
    )


def inputs(frames: int) -> RenderInputs:
    """A drawn sound of so many frames and a drawn picture."""
    drawn = np.random.default_rng(9)
    image = drawn.integers(0, 256, (SETTINGS.height, SETTINGS.width, 3), dtype=np.uint8)
    samples = drawn.standard_normal(FRAMES * 1000).astype(np.float32)[: frames * 1000]
    position = 0

    def read(count: int) -> NDArray[np.float32]:
        nonlocal position
        position += count
        return samples[position - count : position]

    return RenderInputs(read_samples=read, total_samples=len(samples), image=image)
