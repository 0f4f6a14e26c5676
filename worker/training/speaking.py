"""Makes the corpora: who says how much, in which languages, and what is held out of training.

Knows voices and texts. Held-out speech has languages and voices that the training never hears.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from worker.training.espeak import Espeak
from worker.training.sentences import HELD_OUT, TRAINED, line
from worker.training.speech import Utterance, utterance


@dataclass(frozen=True)
class Cast:
    """Who speaks: languages, and variants of espeak-ng's voice that change its sex, age and timbre."""

    languages: Sequence[str]
    variants: Sequence[str]


TRAINING = Cast(
    TRAINED,
    (
        *("", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+f1", "+f2", "+f3", "+f5", "+klatt", "+klatt3", "+klatt4"),
        *("+Andy", "+Annie", "+Denis", "+Gene", "+Jacky", "+Lee", "+Mario", "+Michael", "+adam", "+anika", "+antonio"),
        *("+belinda", "+benjamin", "+boris", "+caleb", "+david", "+ed", "+edward", "+gustave", "+iven", "+john"),
        *("+linda", "+marcelo", "+max", "+norbert", "+pablo", "+paul", "+pedro", "+quincy", "+rob", "+sandro"),
        *("+shelby", "+steph", "+travis", "+victor", "+zac"),
    ),
)
UNHEARD = Cast(HELD_OUT, ("+m7", "+f4", "+klatt2"))

SPEEDS_WPM = (120, 200)
PITCHES = (25, 75)
SCENE_S = 120.0
"""What is spoken in one go; a corpus has many of these, which different processes can speak."""


def speak_scene(cast: Cast, number: int, *, seconds: float, seed: int) -> list[Utterance]:
    """One part of a corpus; others have other words and other voices. Raises `EspeakUnusable`."""
    return list(speak(cast, seconds=seconds, seed=(seed, number)))


def speak(cast: Cast, *, seconds: float, seed: int | tuple[int, ...], longest_s: float = 12.0) -> Iterator[Utterance]:
    """Utterances until there are so many seconds. Languages take turns, from any of them on.

    A seed says the same texts in the same voices. The library itself shapes a sound a little differently after others.

    Raises `EspeakUnusable`.
    """
    espeak = Espeak()
    generator = np.random.default_rng(seed)
    spoken_s, number = 0.0, int(generator.integers(len(cast.languages)))
    while spoken_s < seconds:
        language = cast.languages[number % len(cast.languages)]
        number += 1
        voice = language + str(generator.choice(np.array(cast.variants)))
        said = espeak.say(
            line(language, generator),
            voice=voice,
            words_per_minute=int(generator.integers(*SPEEDS_WPM)),
            pitch=int(generator.integers(*PITCHES)),
        )
        if said.duration_s > longest_s:
            continue
        spoken_s += said.duration_s
        yield utterance(said, voice=voice)
