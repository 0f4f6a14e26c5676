"""Files that fail under a group of real processes: every rank is out of the render at once and fit for the next one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.integration.rank_processes import RankFailed, RankProcesses, rank_processes
from tests.integration.worker.nodes import write_tone
from worker.group.errors import RenderInterrupted, RenderRefused
from worker.group.messages import Draw
from worker.group.renderer import PipelineRenderer
from worker.group.request import RenderRequest
from worker.media.errors import DiskFull
from worker.media.mp4 import Mp4Writer
from worker.pipeline.checkpoint import RandomWeights
from worker.pipeline.compute import Compute
from worker.pipeline.config import preset
from worker.pipeline.dit_share import Session
from worker.pipeline.errors import PeerLost
from worker.pipeline.parallel import RankLayout
from worker.pipeline.pipeline import Pipeline

TIMEOUT = timedelta(seconds=30)
"""What a rank that is not released waits for."""
AT_ONCE_S = 10.0
FRAMES = 80


@pytest.fixture(scope="module")
def ranks() -> Iterator[RankProcesses]:
    with rank_processes(3) as processes:
        yield processes


@pytest.fixture
def request_(tmp_path: Path) -> RenderRequest:
    write_tone(tmp_path / "sound.wav", seconds=5.0)
    np.zeros(80_000, "<f4").tofile(tmp_path / "speech.f32")
    Image.new("RGB", (64, 96), "grey").save(tmp_path / "portrait.png")
    return RenderRequest(
        name="test", speech=tmp_path / "speech.f32", picture=tmp_path / "portrait.png", sound=tmp_path / "sound.wav",
        video=tmp_path / "video.mp4", prompt="a person speaks", seed=1, width=64, height=96, frames=FRAMES,
        output_fps=16, duration_s=5.0, denoising_steps=2,
    )  # fmt: skip


def test_a_writer_that_fails_releases_all_ranks_at_once(ranks: RankProcesses, request_: RenderRequest) -> None:
    first, *others = ranks.run(fail_in_the_third_block, request_)
    assert first[0] == "node_disk"
    assert [outcome for outcome, _ in others] == ["aborted", "aborted"]
    assert max(seconds for _, seconds in (first, *others)) < AT_ONCE_S
    assert ranks.run(render, request_)[0][0] == "80 frames"


@pytest.mark.parametrize("broken", ["picture", "speech", "writer"])
def test_files_that_cannot_be_opened_release_the_other_ranks_at_once(
    ranks: RankProcesses, request_: RenderRequest, broken: str
) -> None:
    missing = request_.video.parent / "not there"
    changes = {
        "picture": {"picture": missing},
        "speech": {"speech": missing},
        "writer": {"video": missing / "video.mp4"},
    }
    first, *others = ranks.run(render, replace(request_, **changes[broken]))
    assert first[0] != "80 frames"
    assert [outcome for outcome, _ in others] == ["aborted", "aborted"]
    assert max(seconds for _, seconds in others) < AT_ONCE_S
    assert ranks.run(render, request_)[0][0] == "80 frames"


def test_a_size_that_does_not_cut_is_refused_on_every_rank_with_the_possible_numbers(
    ranks: RankProcesses, request_: RenderRequest
) -> None:
    odd = replace(request_, width=48, height=80)  # 6 x 10 latent cells: neither side is a multiple of 4
    Image.new("RGB", (48, 80), "grey").save(odd.picture)
    outcomes = [outcome for outcome, _ in ranks.run(render, odd)]
    assert [outcome.split(":")[0] for outcome in outcomes] == ["impossible_layout"] * 3
    assert outcomes[0].endswith("possible numbers of ranks: 1, 2")
    Image.new("RGB", (64, 96), "grey").save(request_.picture)
    assert ranks.run(render, request_)[0][0] == "80 frames"


def test_a_rank_that_died_is_told_as_such_in_the_middle_of_a_render(request_: RenderRequest) -> None:
    with rank_processes(2) as processes:
        assert processes.run(render, request_)[0][0] == "80 frames"
        processes.send(die_in_the_third_block, request_, ranks=range(2))
        with pytest.raises(RankFailed) as failed:
            processes.answer(0)
    last = str(failed.value).strip().splitlines()[-1]
    assert last.startswith(f"worker.pipeline.errors.{PeerLost.__name__}"), str(failed.value)


# What the ranks do


def render(rank: int, size: int, request: RenderRequest) -> tuple[str, float]:
    """How it ended, and after how many seconds."""
    started = time.monotonic()
    return _outcome(renderer_of(rank, size), request), time.monotonic() - started


def fail_in_the_third_block(rank: int, size: int, request: RenderRequest) -> tuple[str, float]:
    written = 0

    def no_room(self: object, frames: object) -> None:
        nonlocal written
        written += 1
        if written == 3:
            raise DiskFull("There is no room on the disk.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mp4Writer, "write", no_room)
        return render(rank, size, request)


def die_in_the_third_block(rank: int, size: int, request: RenderRequest) -> str:
    renderer = renderer_of(rank, size)
    if rank:
        _die_at_block(2)
    return _outcome(renderer, request)


def _die_at_block(block: int) -> None:
    make = Session.make

    def make_or_die(self: Session, number: int, *, window: torch.Tensor) -> torch.Tensor:
        if number == block:
            os._exit(9)
        return make(self, number, window=window)

    Session.make = make_or_die  # type: ignore[method-assign]


def _outcome(renderer: PipelineRenderer, request: RenderRequest) -> str:
    try:
        finishing = renderer.draw(
            Draw(request, wanted_since=time.monotonic()), on_progress=ignore, on_dit=ignore, should_stop=lambda: False
        )
        result = None if finishing is None else finishing.finish(on_progress=ignore)
    except (RenderInterrupted, RenderRefused) as error:
        _kept.append(error)
        return error.code if isinstance(error, RenderInterrupted) else f"{error.code}: {error.message}"
    except OSError as error:
        return type(error).__name__
    return "aborted" if result is None else f"{result.frames} frames"


def ignore(_: object) -> None:
    pass


_kept: list[Exception] = []
"""Errors that live on, as in a log: what was under way must not wait for them to be forgotten."""

_renderers: dict[tuple[int, int], PipelineRenderer] = {}


def renderer_of(rank: int, size: int) -> PipelineRenderer:
    """A process keeps its renderer from one render to the next."""
    if (rank, size) not in _renderers:
        layout = RankLayout(rank=rank, world_size=size, timeout=TIMEOUT)
        pipeline = Pipeline.create(
            preset("tiny"),
            layout=layout,
            compute=Compute.on(torch.device("cpu")),
            weights=RandomWeights(3),
        )
        _renderers[rank, size] = PipelineRenderer(pipeline, layout=layout, device=torch.device("cpu"))
    return _renderers[rank, size]
