"""The avatar that comes with the code speaks, and a defect anywhere in the pipeline is noticed by it."""

import numpy as np
import pytest

from tests.bench.avatar import __main__ as bench
from tests.bench.avatar.clips import Clip, short_clips, silent_clip
from tests.bench.avatar.mutants import MUTANTS
from tests.bench.avatar.plain import Plain
from tests.bench.avatar.sources import Rendered
from tests.bench.avatar.verdict import quiet, same, spoken

UPRIGHT, SQUARE = 5, 8
"""The shortest of each size: somebody who speaks Hungarian, and somebody who speaks Italian."""
BEGINNING_S = 2.5
"""Five blocks, so that the ring of the cache has gone round."""


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return list(short_clips(SQUARE + 1))


@pytest.fixture(scope="module")
def avatar() -> Rendered:
    return Rendered(bench.WEIGHTS)


@pytest.fixture(scope="module")
def beginning(clips: list[Clip]) -> Clip:
    return clips[UPRIGHT].first(BEGINNING_S)


@pytest.fixture(scope="module")
def plain(beginning: Clip) -> np.ndarray:
    return Plain(bench.WEIGHTS).frames(beginning)


@pytest.mark.parametrize("number", [UPRIGHT, SQUARE])
def test_faces_speak_languages_that_they_never_heard(avatar: Rendered, clips: list[Clip], number: int) -> None:
    clip = clips[number]
    assert (clip.frame.width == clip.frame.height) is (number == SQUARE)
    verdict = spoken(clip, avatar.frames(clip))
    assert verdict.broken == (), verdict


def test_silence_keeps_the_mouth_shut(avatar: Rendered) -> None:
    silence = silent_clip()
    verdict = quiet(silence, avatar.frames(silence))
    assert verdict.broken == (), verdict


def test_the_caches_of_the_pipeline_change_nothing(avatar: Rendered, beginning: Clip, plain: np.ndarray) -> None:
    verdict = same(beginning, avatar.frames(beginning), plain)
    assert verdict.broken == (), verdict


@pytest.mark.parametrize("defect", MUTANTS)
def test_every_defect_is_noticed(avatar: Rendered, beginning: Clip, plain: np.ndarray, defect: str) -> None:
    with MUTANTS[defect]():
        frames = avatar.frames(beginning)
    assert same(beginning, frames, plain).broken


def test_sound_that_is_a_block_late_is_seen_at_the_mouth(avatar: Rendered, clips: list[Clip]) -> None:
    with MUTANTS["late-sound"]():
        frames = avatar.frames(clips[UPRIGHT])
    assert {"correlation", "lag"} <= set(spoken(clips[UPRIGHT], frames).broken)
