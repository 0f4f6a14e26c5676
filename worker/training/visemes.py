"""What the mouth does for each sound of speech, and how it gets from one to the next.

Knows phonemes by their IPA letters and mouths as four numbers; nothing of sound or pictures. Co-articulation follows
Cohen and Massaro, "Modeling coarticulation in synthetic visual speech" (1993): every phoneme pulls the mouth towards
its own shape with a strength that fades with the distance in time, and the mouth is where the pulls balance. Sounds
that need the lips pull hard, those made in the throat hardly at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from worker.pipeline.config import VIDEO_FPS
from worker.training.espeak import Phoneme, with_ends

OPEN, WIDTH, TEETH, TONGUE = range(4)
"""Columns of a track: how far the lips are apart (0 to 1), how wide the mouth is (-1 rounded to 1 spread), how much of
the teeth and of the tongue is seen (0 to 1)."""

_PER_FRAME = 4
"""Times at which the shape is worked out within a frame, and averaged."""

_LEAST_REACH_S = 0.035
_REACH = 0.55
"""Of its duration: the distance at which a phoneme's pull has fallen to a third."""


@dataclass(frozen=True)
class Viseme:
    """The shape of a sound, and how hard it pulls at each of the four numbers."""

    shape: tuple[float, float, float, float]
    pull: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)


def _vowel(openness: float, width: float) -> Viseme:
    return Viseme((openness, width, 0.3, 0.15), (1.2, 1.2, 0.6, 0.6))


def _lips(openness: float, width: float, teeth: float) -> Viseme:
    return Viseme((openness, width, teeth, 0.0), (5.0, 0.8, 2.0, 1.0))


def _tongue(openness: float, teeth: float, tongue: float) -> Viseme:
    return Viseme((openness, 0.1, teeth, tongue), (0.9, 0.3, 1.0, 2.0))


SILENCE = Viseme((0.0, 0.0, 0.0, 0.0), (2.0, 0.7, 1.0, 1.0))
_THROAT = Viseme((0.3, 0.0, 0.2, 0.1), (0.3, 0.1, 0.3, 0.3))

_GROUPS = {
    "aɐɑɶ": _vowel(1.0, 0.1),
    "æ": _vowel(0.85, 0.4),
    "ʌɒ": _vowel(0.8, -0.2),
    "ɛε": _vowel(0.6, 0.4),  # the second is Greek, which some voices of espeak-ng write
    "e": _vowel(0.5, 0.55),
    "əɘɜɝɚɞ": _vowel(0.45, 0.0),
    "iɪ": _vowel(0.3, 0.85),
    "ɨɯɤᵻ": _vowel(0.35, 0.3),
    "ɔ": _vowel(0.7, -0.6),
    "oɵ": _vowel(0.5, -0.75),
    "uʊʉ": _vowel(0.28, -1.0),
    "yʏ": _vowel(0.28, -0.9),
    "øœ": _vowel(0.45, -0.7),
    "pbmɓβɸ": _lips(0.0, 0.0, 0.0),
    "fvʋɱ": _lips(0.12, 0.1, 1.0),
    "wʍɥ": Viseme((0.18, -1.0, 0.0, 0.0), (2.0, 2.5, 1.0, 1.0)),
    "θð": _tongue(0.25, 0.8, 0.8),
    "szɕʑʐʂ": Viseme((0.15, 0.4, 1.0, 0.0), (1.5, 0.6, 2.0, 1.0)),
    "ʃʒ": Viseme((0.22, -0.6, 0.9, 0.0), (1.5, 1.5, 2.0, 1.0)),
    "tdɗʈɖ": _tongue(0.2, 0.6, 0.4),
    "nɲɳ": _tongue(0.22, 0.4, 0.5),
    "lɫɭʎɬ": _tongue(0.35, 0.3, 1.0),
    "rɾɹɻɽ": Viseme((0.3, -0.3, 0.3, 0.4), (0.8, 0.7, 0.6, 0.8)),
    "jʝ": _vowel(0.25, 0.7),
    "kɡgŋxɣχʁʀhɦħʔqcɟçʕɰɢɴ": _THROAT,
}
_OF_LETTER = MappingProxyType({letter: viseme for letters, viseme in _GROUPS.items() for letter in letters})


def letters(ipa: str) -> tuple[str, ...]:
    """The sounds of a phoneme in their order: two of a diphthong or an affricate; marks of length and tone drop out."""
    return tuple(letter for letter in ipa if letter in _OF_LETTER)


def mouth_track(phonemes: Sequence[Phoneme], *, duration_s: float, frames: int) -> NDArray[np.float32]:
    """[frames, 4] at 16 frames per second, each the mean over the time that the frame is seen.

    Before the first phoneme, behind the last and in every pause the lips are closed.
    """
    centres, durations, visemes = _sounds(phonemes, duration_s=max(duration_s, frames / VIDEO_FPS))
    times = (np.arange(frames * _PER_FRAME) + 0.5) / (VIDEO_FPS * _PER_FRAME)
    reach = np.maximum(_REACH * durations, _LEAST_REACH_S)
    away = (times[:, None] - centres) / reach
    fade = np.exp(-np.minimum(away**2, 60.0)) + 1e-30
    pulls_TSC = fade[..., None] * np.array([viseme.pull for viseme in visemes])
    shapes_SC = np.array([viseme.shape for viseme in visemes])
    track = (pulls_TSC * shapes_SC).sum(1) / pulls_TSC.sum(1)
    return np.asarray(track.reshape(frames, _PER_FRAME, 4).mean(1), dtype=np.float32)


def _sounds(
    phonemes: Sequence[Phoneme], *, duration_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[Viseme]]:
    """Middles and lengths in seconds of all sounds and silences, without gaps."""
    first_s = phonemes[0].start_s if phonemes else duration_s
    parts: list[tuple[float, float, Viseme]] = [(-1.0, first_s, SILENCE)]
    for phoneme, end in with_ends(phonemes, until_s=duration_s):
        found = [_OF_LETTER[letter] for letter in letters(phoneme.ipa)] or [SILENCE if not phoneme.ipa else _THROAT]
        cuts = np.linspace(phoneme.start_s, end, len(found) + 1)
        parts.extend(zip(cuts[:-1].tolist(), cuts[1:].tolist(), found, strict=True))
    parts.append((duration_s, duration_s + 1.0, SILENCE))
    lasting = [part for part in parts if part[1] > part[0]]
    begins, finishes = (np.array([part[side] for part in lasting], dtype=np.float64) for side in (0, 1))
    return (begins + finishes) / 2, finishes - begins, [part[2] for part in lasting]


def pauses(phonemes: Sequence[Phoneme], *, duration_s: float, at_least_s: float) -> tuple[tuple[float, float], ...]:
    """(start, end) in seconds of the silences within and around speech that last so long."""
    edges = [(0.0, "")] + [(phoneme.start_s, phoneme.ipa) for phoneme in phonemes]
    found: list[tuple[float, float]] = []
    for (start, ipa), (end, _) in zip(edges, [*edges[1:], (duration_s, "")], strict=True):
        if ipa:
            continue
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return tuple((start, end) for start, end in found if end - start >= at_least_s)
