"""What a face does while it says something: a mouth track, and when it blinks.

Knows utterances and frames; neither pictures nor networks. People blink where they pause, and from time to time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.pipeline.config import AUDIO_SAMPLE_RATE, VIDEO_FPS
from worker.pipeline.sound import ReadSamples
from worker.training.espeak import Phoneme, with_ends
from worker.training.speech import Utterance
from worker.training.visemes import mouth_track, pauses

_BLINK = (0.55, 1.0, 0.5)
"""How far the lids are down in the frames of a blink."""
_PAUSE_S = 0.18
"""Silence in which a blink falls."""
_BETWEEN_S = (2.5, 5.0)
"""Between blinks where there is no pause."""
_APART_S = 1.0


@dataclass(frozen=True)
class Acted:
    """Tracks [T, 4] and lids [T], and the sound that belongs to them, float32 at 16 kHz, T / 16 seconds of it."""

    samples: NDArray[np.float32]
    track: NDArray[np.float32]
    lids: NDArray[np.float32]

    def reader(self) -> ReadSamples:
        """Gives the sound out piece by piece, as the pipeline reads one."""
        given = 0

        def read(count: int) -> NDArray[np.float32]:
            nonlocal given
            piece = self.samples[given : given + count]
            given += len(piece)
            return piece

        return read


def act(spoken: Utterance, *, seed: int) -> Acted:
    """The sound is padded with silence to whole frames."""
    frames = math.ceil(spoken.duration_s * VIDEO_FPS)
    samples = np.zeros(frames * AUDIO_SAMPLE_RATE // VIDEO_FPS, dtype=np.float32)
    samples[: len(spoken.samples)] = spoken.samples
    duration_s = frames / VIDEO_FPS
    track = mouth_track(spoken.phonemes, duration_s=duration_s, frames=frames)
    return Acted(samples, track, _lids(spoken, duration_s=duration_s, frames=frames, seed=seed))


def joined(parts: Sequence[Utterance], *, gap_s: float) -> Utterance:
    """One utterance of several, with silence before, between and behind them."""
    silence = np.zeros(round(gap_s * AUDIO_SAMPLE_RATE), dtype=np.float32)
    samples, phonemes = [silence], [Phoneme(0.0, "")]
    length = len(silence)
    for part in parts:
        start_s = length / AUDIO_SAMPLE_RATE
        phonemes.extend(Phoneme(start_s + phoneme.start_s, phoneme.ipa) for phoneme in part.phonemes)
        samples.extend((part.samples, silence))
        length += len(part.samples) + len(silence)
        phonemes.append(Phoneme((length - len(silence)) / AUDIO_SAMPLE_RATE, ""))
    voice = " ".join(sorted({part.voice for part in parts}))
    return Utterance(voice, np.concatenate(samples), tuple(phonemes))


def excerpt(spoken: Utterance, *, start_s: float, duration_s: float) -> Utterance:
    """A part of an utterance; a phoneme that is under way at its beginning begins there."""
    end_s = start_s + duration_s
    heard = tuple(
        Phoneme(max(0.0, phoneme.start_s - start_s), phoneme.ipa)
        for phoneme, end in with_ends(spoken.phonemes, until_s=spoken.duration_s)
        if end > start_s and phoneme.start_s < end_s
    )
    samples = spoken.samples[round(start_s * AUDIO_SAMPLE_RATE) : round(end_s * AUDIO_SAMPLE_RATE)]
    return Utterance(spoken.voice, samples, heard)


def _lids(spoken: Utterance, *, duration_s: float, frames: int, seed: int) -> NDArray[np.float32]:
    generator = np.random.default_rng((seed, 2))
    quiet = pauses(spoken.phonemes, duration_s=duration_s, at_least_s=_PAUSE_S)
    due = [start + 0.05 for start, _ in quiet if start > 0]  # a video begins with the portrait, whose eyes are open
    last_s, starts = -_APART_S, []
    next_s = float(generator.uniform(*_BETWEEN_S))
    for pause_s in [*due, math.inf]:
        while next_s < min(pause_s, duration_s):
            starts.append(next_s)
            last_s, next_s = next_s, next_s + float(generator.uniform(*_BETWEEN_S))
        if pause_s < duration_s and pause_s - last_s >= _APART_S:
            starts.append(pause_s)
            last_s, next_s = pause_s, pause_s + float(generator.uniform(*_BETWEEN_S))
    lids = np.zeros(frames, dtype=np.float32)
    for start in starts:
        first = int(start * VIDEO_FPS)
        for offset, down in enumerate(_BLINK):
            if first + offset < frames:
                lids[first + offset] = max(lids[first + offset], down)
    return lids
