import numpy as np

from tests.unit.training.heard import unheard
from worker.training.acting import act, joined
from worker.training.espeak import Phoneme
from worker.training.visemes import OPEN, TEETH, TONGUE, WIDTH, letters, mouth_track, pauses


def _said(*sounds: str) -> np.ndarray:
    """Each sound lasts 0.25 s; the track at 16 frames per second."""
    phonemes = [Phoneme(0.25 * number, ipa) for number, ipa in enumerate(sounds)]
    return mouth_track(phonemes, duration_s=0.25 * len(sounds), frames=4 * len(sounds))


def test_lips_close_for_a_bilabial_between_open_vowels() -> None:
    track = _said("a", "p", "a")
    assert track[5:7, OPEN].max() < 0.12
    assert track[1:3, OPEN].min() > 0.5


def test_a_short_closure_between_vowels_is_not_lost() -> None:
    phonemes = [Phoneme(0.0, "a"), Phoneme(0.5, "b"), Phoneme(0.56, "a")]
    assert mouth_track(phonemes, duration_s=1.0, frames=16)[:, OPEN][7:10].min() < 0.45


def test_rounded_vowels_narrow_the_mouth_and_spread_ones_widen_it() -> None:
    track = _said("u", "i")
    assert track[1, WIDTH] < -0.5
    assert track[6, WIDTH] > 0.5


def test_teeth_and_tongue_show_where_they_should() -> None:
    track = _said("f", "l", "a")
    assert track[1:3, TEETH].min() > 0.6
    assert track[5:7, TONGUE].min() > 0.5


def test_the_mouth_is_shut_in_silence() -> None:
    assert _said("", "", "")[:, OPEN].max() == 0
    assert _said("a", "", "", "", "a")[7:13, OPEN].max() < 0.02


def test_a_sound_without_phonemes_moves_nothing() -> None:
    assert mouth_track([], duration_s=1.0, frames=16).max() == 0
    assert pauses([], duration_s=1.0, at_least_s=0.2) == ((0.0, 1.0),)


def test_a_vowel_changes_with_its_neighbours() -> None:
    assert _said("u", "e", "u")[5:7, WIDTH].mean() < _said("i", "e", "i")[5:7, WIDTH].mean() - 0.1


def test_every_phoneme_of_the_corpus_has_a_shape() -> None:
    heard = {phoneme.ipa for utterance in unheard() for phoneme in utterance.phonemes if phoneme.ipa}
    assert len(heard) > 30
    assert {ipa for ipa in heard if not letters(ipa)} == set()


def test_neighbouring_pauses_count_as_one() -> None:
    phonemes = [Phoneme(0.0, "a"), Phoneme(0.3, ""), Phoneme(0.4, ""), Phoneme(0.6, "a")]
    assert pauses(phonemes, duration_s=0.9, at_least_s=0.25) == ((0.3, 0.6),)


def test_acting_fits_the_sound_frame_by_frame_and_blinks() -> None:
    spoken = joined(unheard()[:3], gap_s=0.5)
    acted = act(spoken, seed=1)
    assert len(acted.samples) == 1000 * len(acted.track) == 1000 * len(acted.lids)
    assert acted.track[:6, OPEN].max() < 0.05
    blinks = int((acted.lids == 1).sum())
    assert len(acted.track) / 16 / 6 < blinks < len(acted.track) / 16
    assert np.array_equal(act(spoken, seed=1).lids, acted.lids)


def test_a_video_begins_with_open_eyes_though_it_begins_with_a_pause() -> None:
    quiet_at_first = joined(unheard()[:1], gap_s=0.6)
    for seed in range(20):
        lids = act(quiet_at_first, seed=seed).lids
        assert lids[0] == 0
        assert lids.max() == 1
