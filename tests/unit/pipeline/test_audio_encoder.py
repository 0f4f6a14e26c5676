"""Sound of any length: what windows cost in exactness and in memory, and the reference's way beside it."""

import tracemalloc

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.pipeline import sound
from worker.pipeline.audio_encoder import AudioEncoder, AudioMode, ReadSamples
from worker.pipeline.audio_windows import CONTEXT_FRAMES, CORE_FRAMES, FADE_FRAMES, joined, windows
from worker.pipeline.checkpoint import RandomWeights
from worker.pipeline.config import PRESETS
from worker.pipeline.sound import KeptSound, Samples, UnusableSound

RATE = 16_000

WHOLE_SOUND_TOLERANCE = 0.05
"""Relative L2 between windows and one pass over the whole sound. With drawn weights attention is spread over all of a
sound, which is the worst there can be for windows; the reference's pieces of 5 s are at 0.4 on the same sound."""


@pytest.fixture(scope="module")
def encoder() -> AudioEncoder:
    return AudioEncoder(PRESETS["tiny"].audio, device=torch.device("cpu"), weights=RandomWeights(0))


def speech(seconds: float, *, seed: int = 0) -> Samples:
    """A gliding voice of syllables of changing loudness, over noise."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(np.pi * time)) / RATE
    voice = sum((np.sin(k * phase) / k for k in range(1, 8)), start=np.zeros_like(time))
    beats = np.arange(0, seconds + 0.24, 0.12)
    loudness = np.interp(time, beats, random.uniform(0, 1, len(beats)) ** 2)
    return (voice * loudness * 0.1 + random.normal(0, 0.003, len(time))).astype(np.float32)


def reader(samples: NDArray[np.generic], *, at_most: int = 10**9) -> ReadSamples:
    place = 0

    def read(count: int) -> Samples:
        nonlocal place
        piece = samples[place : place + min(count, at_most)]
        place += len(piece)
        return piece  # type: ignore[return-value]

    return read


def rows(encoder: AudioEncoder, samples: Samples, mode: AudioMode = AudioMode.WINDOWED) -> Tensor:
    return torch.cat(list(encoder.rows(reader(samples), total_samples=len(samples), mode=mode)), dim=2)


def padded(samples: Samples) -> Samples:
    return np.pad(samples, (0, -len(samples) % RATE))


def distance(made: Tensor, wanted: Tensor) -> float:
    return float((made - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("seconds", [0.1, 1.0, 7.3, 25.0])
def test_a_sound_that_fits_one_window_is_encoded_as_a_whole(encoder: AudioEncoder, seconds: float) -> None:
    samples = speech(seconds)
    whole = encoder.segment_rows(padded(samples))
    assert whole.shape[2] == 16 * np.ceil(seconds)
    assert distance(rows(encoder, samples), whole) < 1e-4


def test_windows_agree_with_a_pass_over_the_whole_sound_to_the_stated_tolerance(encoder: AudioEncoder) -> None:
    samples = speech(70)
    made, whole = rows(encoder, samples), encoder.segment_rows(padded(samples))
    assert made.shape == whole.shape == (3, 32, 1120)
    assert distance(made[0], whole[0]) < 1e-3  # the first state knows only its neighbourhood
    for window in range(0, 1120, 160):
        part = slice(window, window + 160)
        assert distance(made[:, :, part], whole[:, :, part]) < WHOLE_SOUND_TOLERANCE
    assert distance(rows(encoder, samples, AudioMode.REFERENCE), whole) > 3 * WHOLE_SOUND_TOLERANCE


def test_reference_mode_encodes_every_five_seconds_by_themselves(encoder: AudioEncoder) -> None:
    samples = speech(12.2)
    made = rows(encoder, samples, AudioMode.REFERENCE)
    pieces = [encoder.segment_rows(padded(samples[start : start + 5 * RATE])) for start in (0, 5 * RATE, 10 * RATE)]
    assert torch.equal(made, torch.cat(pieces, dim=2))
    assert made.shape[2] == 13 * 16


def test_windowed_is_what_one_gets_without_asking(encoder: AudioEncoder) -> None:
    samples = speech(6)
    unasked = torch.cat(list(encoder.rows(reader(samples), total_samples=len(samples))), dim=2)
    assert torch.equal(unasked, rows(encoder, samples, AudioMode.WINDOWED))


@pytest.mark.parametrize("mode", list(AudioMode))
def test_rows_do_not_depend_on_how_the_reader_cuts_the_sound(encoder: AudioEncoder, mode: AudioMode) -> None:
    samples = speech(8)
    cut = encoder.rows(reader(samples, at_most=777), total_samples=len(samples), mode=mode)
    assert torch.equal(torch.cat(list(cut), dim=2), rows(encoder, samples, mode))


def test_digital_silence_gives_finite_rows(encoder: AudioEncoder) -> None:
    assert torch.isfinite(rows(encoder, np.zeros(RATE, dtype=np.float32))).all()


def test_loudness_and_offset_of_the_recording_do_not_matter(encoder: AudioEncoder) -> None:
    samples = speech(6)
    assert distance(rows(encoder, samples * 5 + np.float32(0.2)), rows(encoder, samples)) < 0.01


@pytest.mark.parametrize("mode", list(AudioMode))
def test_a_sound_that_is_not_what_was_announced_is_refused(encoder: AudioEncoder, mode: AudioMode) -> None:
    with pytest.raises(UnusableSound, match="ends 100 samples before its 16100"):
        list(encoder.rows(reader(speech(1)), total_samples=16_100, mode=mode))
    broken = speech(1)
    broken[500] = np.nan
    with pytest.raises(UnusableSound, match="not finite"):
        list(encoder.rows(reader(broken), total_samples=RATE, mode=mode))
    with pytest.raises(UnusableSound, match="shape"):
        list(encoder.rows(reader(np.zeros((RATE, 2))), total_samples=RATE, mode=mode))
    with pytest.raises(ValueError, match="holds nothing"):
        encoder.rows(reader(speech(1)), total_samples=0, mode=mode)


def test_an_hour_needs_no_more_memory_than_two_minutes(encoder: AudioEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network itself is left out here: what is handed to it at once is counted, and the rest is traced."""
    monkeypatch.setattr(sound, "_IN_MEMORY_BYTES", 2**20)
    loop = speech(20)
    largest: dict[int, tuple[int, int]] = {}
    for minutes in (2, 60):
        place, handed = 0, 0

        def read(count: int) -> Samples:
            nonlocal place
            piece = np.take(loop, np.arange(place, place + count), mode="wrap")
            place += count
            return piece

        def states(samples: Samples) -> Tensor:
            nonlocal handed
            handed = max(handed, len(samples))
            return torch.zeros(3, encoder.frames(len(samples)), 32)

        monkeypatch.setattr(encoder, "states", states)
        tracemalloc.start()
        made = sum(piece.shape[2] for piece in encoder.rows(read, total_samples=minutes * 60 * RATE))
        largest[minutes] = (handed, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert made == minutes * 60 * 16
    assert largest[60][0] == largest[2][0] <= (CORE_FRAMES + 2 * CONTEXT_FRAMES + 1) * 320
    assert largest[60][1] < 1.1 * largest[2][1]


@pytest.mark.parametrize("total", [1, 49, 1250, 1251, 1500, 2250, 2251, 10_000])
def test_window_cores_cover_every_frame_once_with_context_around(total: int) -> None:
    planned = list(windows(total))
    assert [w.core_start for w in planned] == [0, *(w.core_stop for w in planned[:-1])]
    assert planned[-1].core_stop == planned[-1].stop == total
    for window in planned:
        assert window.start in (0, window.core_start - CONTEXT_FRAMES)
        assert window.stop in (total, window.core_stop + CONTEXT_FRAMES)
        assert window.stop - window.start <= CORE_FRAMES + 2 * CONTEXT_FRAMES


def test_joined_windows_that_agree_are_the_whole() -> None:
    whole = torch.arange(4000.0)[None, :, None].expand(2, -1, 3)
    pieces = list(joined((w, whole[:, w.start : w.stop]) for w in windows(4000)))
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=0, atol=1e-3)


def test_windows_that_disagree_fade_into_each_other() -> None:
    pieces = ((w, torch.full((1, w.stop - w.start, 1), float(number))) for number, w in enumerate(windows(4000)))
    made = torch.cat(list(joined(pieces)), dim=1)[0, :, 0]
    assert len(made) == 4000
    assert made[CORE_FRAMES - FADE_FRAMES - 1] == 0
    assert made[CORE_FRAMES + FADE_FRAMES] == 1
    assert 0 < made.diff().max() <= 0.5 / FADE_FRAMES + 1e-6
    assert made.diff().min() >= 0


def test_kept_sound_is_normalised_over_its_padding_and_leaves_no_file_open() -> None:
    samples = speech(1.5)
    with KeptSound(reader(samples), total_samples=len(samples), padded_samples=2 * RATE) as kept:
        everything = kept.normalised(0, 2 * RATE)
        assert np.array_equal(kept.normalised(23_000, 25_000), everything[23_000:25_000])
    whole = padded(samples).astype(np.float64)
    np.testing.assert_allclose(everything, (whole - whole.mean()) / np.sqrt(whole.var() + 1e-7), atol=1e-6)
    with pytest.raises(ValueError, match="closed"):
        kept.normalised(0, 10)
