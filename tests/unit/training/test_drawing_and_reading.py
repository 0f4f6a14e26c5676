"""The reading of mouths is proven on drawn videos, whose truth is known, before any network is held to it."""

import numpy as np
import pytest
import torch

from tests.unit.training.heard import unheard
from worker.training.acting import Acted, act, joined
from worker.training.drawing import draw, opening, portrait, to_uint8
from worker.training.faces import MOUTH_BOX, Face, Frame, face
from worker.training.reading import agreement, drift, read_openings

SQUARE, UPRIGHT = Frame(192, 192), Frame(144, 192)


def _filmed(person: Face, acted: Acted, frame: Frame) -> np.ndarray:
    tracks, lids = torch.from_numpy(acted.track)[None], torch.from_numpy(acted.lids)[None]
    return to_uint8(draw([person], frame, tracks_BTK=tracks, lids_BT=lids)[0]).numpy()


@pytest.mark.parametrize("number", range(8))
def test_openings_are_read_back_from_drawn_videos(number: int) -> None:
    acted, person = act(unheard()[number], seed=number), face(500 + number)
    frame = SQUARE if number % 2 else UPRIGHT
    read = read_openings(_filmed(person, acted, frame), portrait(person, frame))
    truth = opening([person], acted.track[None])[0]
    found = agreement(read, truth)
    assert found.correlation > 0.95
    assert found.best_lag == 0
    assert 0.6 < read.sum() / truth.sum() < 1.4


@pytest.mark.parametrize("late", [8, -8, 2])
def test_a_video_that_is_late_is_found_late(late: int) -> None:
    acted, person = act(unheard()[1], seed=1), face(1)
    read = read_openings(_filmed(person, acted, SQUARE), portrait(person, SQUARE))
    found = agreement(np.roll(read, late), opening([person], acted.track[None])[0])
    assert found.best_lag == late
    assert found.correlation < 0.8


def test_compressed_and_noisy_frames_are_read_as_well() -> None:
    acted, person = act(unheard()[2], seed=1), face(7)
    frames = _filmed(person, acted, SQUARE).astype(np.float32)
    blurred = (np.roll(frames, 1, 1) + 2 * frames + np.roll(frames, -1, 1)) / 4
    noisy = np.clip(blurred + np.random.default_rng(0).normal(0, 4, frames.shape), 0, 255).astype(np.uint8)
    read = read_openings(noisy, portrait(person, SQUARE))
    assert agreement(read, opening([person], acted.track[None])[0]).correlation > 0.9


def test_a_closed_mouth_reads_as_shut_on_every_face() -> None:
    shut = Acted(np.zeros(16_000, np.float32), np.zeros((16, 4), np.float32), np.zeros(16, np.float32))
    for seed in range(40):
        assert read_openings(_filmed(face(seed), shut, SQUARE), portrait(face(seed), SQUARE)).max() < 1e-4


def test_a_mouth_that_does_not_move_cannot_agree() -> None:
    with pytest.raises(ValueError, match="does not move"):
        agreement(np.zeros(50), np.sin(np.arange(50)))


def test_one_person_does_not_drift_and_another_does() -> None:
    acted = act(joined(unheard()[3:5], gap_s=0.6), seed=1)
    frames = _filmed(face(3), acted, UPRIGHT)
    still = drift(frames, fps=16)
    assert still.colour < 0.002
    assert still.shape < 0.002
    darker = frames.copy()
    darker[-16:] = (darker[-16:] * 0.95).astype(np.uint8)
    assert drift(darker, fps=16).colour > 0.02
    moved = frames.copy()
    moved[-80:] = np.roll(moved[-80:], 1, axis=2)
    assert drift(moved, fps=16).shape > 0.02
    with pytest.raises(ValueError, match="less than 10 seconds"):
        drift(frames[:159], fps=16)


def test_nothing_but_mouth_and_eyes_moves() -> None:
    frames = _filmed(face(11), act(unheard()[4], seed=4), SQUARE)
    changed = (frames != frames[:1]).any((0, 3))
    left, top, right, bottom = SQUARE.box(MOUTH_BOX)
    changed[top:bottom, left:right] = False
    rows = np.nonzero(changed.any(1))[0]
    middle = SQUARE.centre[1]
    assert rows.min() > middle - 0.14 * SQUARE.unit
    assert rows.max() < middle + 0.11 * SQUARE.unit


def test_a_seed_is_one_person_and_two_seeds_are_two() -> None:
    assert face(5) == face(5)
    pictures = [portrait(face(seed), SQUARE) for seed in range(12)]
    for number, one in enumerate(pictures):
        for other in pictures[number + 1 :]:
            assert np.abs(one.astype(int) - other.astype(int)).mean() > 5


def test_the_mouth_box_holds_the_largest_mouth() -> None:
    wide = np.array([[[1, 1, 1, 1], [1, -1, 1, 1]]], dtype=np.float32)
    for seed in range(60):
        person = face(seed)
        left, top, right, bottom = MOUTH_BOX
        assert person.mouth_width * 1.2 + 2 * person.lip_thickness < right == -left
        assert person.mouth_y - 0.8 * person.mouth_height - 2 * person.lip_thickness > top
        assert person.mouth_y + 1.2 * person.mouth_height + 2 * person.lip_thickness < bottom
        assert opening([person], wide).min() > 0
