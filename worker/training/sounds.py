"""Sound for training, made different every time: speed, tone, noise and loudness.

Knows waves and the times of phonemes in them. What is heard in use was not spoken by this synthesiser, so no single
property of its sound is left to be relied on.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from worker.training.espeak import Phoneme
from worker.training.speech import Utterance

SPEEDS = (0.85, 1.18)
"""A faster voice is a higher one, as of a smaller person."""
_NOISE_DB = (12.0, 45.0)
_FFT_MULTIPLE = 4096
"""Lengths that a transform is fast for."""
_SILENT_SHARE = 0.04
"""Examples without any speech, in which noise is all there is."""


def varied(spoken: Utterance, generator: np.random.Generator) -> Utterance:
    """The same words by another voice in another room; sometimes only the room."""
    speed = float(generator.uniform(*SPEEDS))
    count = int(len(spoken.samples) / speed)
    places = np.arange(count) * speed
    samples = np.interp(places, np.arange(len(spoken.samples)), spoken.samples).astype(np.float32)
    phonemes = tuple(Phoneme(phoneme.start_s / speed, phoneme.ipa) for phoneme in spoken.phonemes)
    if generator.random() < _SILENT_SHARE:
        samples, phonemes = np.zeros_like(samples), ()
    return replace(spoken, samples=_in_a_room(samples, generator), phonemes=phonemes)


def _in_a_room(samples: NDArray[np.float32], generator: np.random.Generator) -> NDArray[np.float32]:
    """Tilted and notched in its spectrum, with noise of a colour of its own."""
    length = -(-len(samples) // _FFT_MULTIPLE) * _FFT_MULTIPLE
    spectrum = np.fft.rfft(samples, length)
    octaves = np.log2(np.linspace(60, 8000, len(spectrum)) / 700)
    curve_db = generator.uniform(-4, 4) * octaves
    for _ in range(3):
        middle, width, height = generator.uniform(-2, 3), generator.uniform(0.2, 1.0), generator.uniform(-8, 8)
        curve_db += height * np.exp(-(((octaves - middle) / width) ** 2))
    if generator.random() < 0.3:  # a telephone, or a codec that saves
        curve_db -= 60 * np.clip(octaves - np.log2(generator.uniform(3000, 7000) / 700), 0, 1)
    heard = np.fft.irfft(spectrum * 10 ** (np.clip(curve_db, -60, 20) / 20), length)[: len(samples)]
    noise_spectrum = np.fft.rfft(generator.standard_normal(length)) * 2 ** (-generator.uniform(0, 1.2) * octaves)
    noise = np.fft.irfft(noise_spectrum, length)[: len(samples)]
    level = heard.std() if heard.std() > 1e-6 else 0.05
    noise *= level / noise.std() * 10 ** (-float(generator.uniform(*_NOISE_DB)) / 20)
    return np.asarray(heard + noise, dtype=np.float32)


def normalised(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """As the audio encoder wants a whole sound: mean 0, variance 1 (specification, section 9)."""
    return np.asarray((samples - samples.mean()) / np.sqrt(samples.var() + 1e-7), dtype=np.float32)
