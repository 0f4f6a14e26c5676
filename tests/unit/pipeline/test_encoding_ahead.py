"""Inputs encoded ahead of their render, from other threads, and the clock of the DiT."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from tests.unit.pipeline.test_pipeline import SETTINGS, inputs, pipeline, render  # noqa: F401 - a fixture
from worker.pipeline import dit_clock
from worker.pipeline.dit_clock import DiTSeconds, WallDiTClock
from worker.pipeline.encoders import Encoded
from worker.pipeline.pipeline import Pipeline, RenderedBlock
from worker.pipeline.sound import UnusableSound

LONG = replace(SETTINGS, frames=32)


def test_what_was_encoded_ahead_gives_the_same_frames(pipeline: Pipeline) -> None:  # noqa: F811
    directly = render(pipeline, LONG)
    ahead = pipeline.prepare(LONG, inputs(LONG))
    assert np.array_equal(_frames(directly), _frames(_draw(pipeline, ahead)))


def test_two_threads_encode_while_a_third_draws_and_no_frame_is_different(pipeline: Pipeline) -> None:  # noqa: F811
    alone = _frames(render(pipeline, LONG))
    encoded: list[Encoded] = []
    threads = [threading.Thread(target=lambda: encoded.append(pipeline.prepare(LONG, inputs(LONG)))) for _ in range(2)]
    drawing = pipeline.render(LONG, inputs=inputs(LONG), should_stop=lambda: False)
    blocks = [next(drawing)]
    for thread in threads:
        thread.start()
    blocks += drawing
    for thread in threads:
        thread.join(timeout=30)
    assert np.array_equal(_frames(blocks), alone)
    assert [np.array_equal(_frames(_draw(pipeline, one)), alone) for one in encoded] == [True, True]


def test_a_sound_that_ends_early_is_told_of_ahead(pipeline: Pipeline) -> None:  # noqa: F811
    with pytest.raises(UnusableSound):
        pipeline.prepare(LONG, replace(inputs(LONG), total_samples=10**6))


def test_the_clock_parts_work_from_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(dit_clock, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now)}))
    clock = WallDiTClock()
    told: list[DiTSeconds] = []
    now = 103.0
    with clock.denoising():  # a trial, which nobody waits for
        now = 104.0
    now = 110.0  # nothing to do until 108
    clock.begin(wanted_since=108.0, on_work=told.append)
    with clock.denoising():
        now = 111.0
    now = 111.5
    with clock.denoising():
        now = 112.5
    with clock.sharing():
        now = 112.75
    now = 113.0  # wanted long before the last one was drawn
    clock.begin(wanted_since=50.0, on_work=told.append)
    with clock.denoising():
        now = 114.0
    assert told[-1] == DiTSeconds(busy=4.0, shared=0.25, idle_between=2.25, idle_within=0.5)
    assert [seconds.busy for seconds in told] == [2.0, 3.0, 4.0]
    assert (told[-1] + told[0]).idle == 2.75 + 2.0


def _draw(pipeline: Pipeline, encoded: Encoded) -> list[RenderedBlock]:  # noqa: F811
    return list(pipeline.render(LONG, inputs=encoded, should_stop=lambda: False))


def _frames(blocks: list[RenderedBlock]) -> object:
    return np.concatenate([block.frames for block in blocks])
