"""A corpus of speech with its phonemes, in one small file.

Knows utterances and their coding; not how they were spoken or what a mouth does. Sound is kept as 8-bit mu-law (ITU-T
G.711's curve) under LZMA: two thirds of a byte per sample, and nothing needed to read it but Python and numpy.
"""

from __future__ import annotations

import io
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.pipeline.config import AUDIO_SAMPLE_RATE
from worker.training.espeak import Phoneme, Spoken

_MU = 255.0
_LARGEST = 0.7
"""Peak of every utterance, of 1."""

_FORMAT = 1
_PRESET = 0
"""The fastest: the best one makes a file a tenth smaller in six times the time."""


class CorpusUnreadable(ValueError):
    """The file is not a corpus, or one of another format."""


@dataclass(frozen=True)
class Utterance:
    """Speech in float32 at 16 kHz, between -1 and 1."""

    voice: str
    samples: NDArray[np.float32]
    phonemes: tuple[Phoneme, ...]

    @property
    def duration_s(self) -> float:
        return len(self.samples) / AUDIO_SAMPLE_RATE


def utterance(spoken: Spoken, *, voice: str) -> Utterance:
    """At the sample rate of the audio encoder, by way of the spectrum, at one loudness."""
    spectrum = np.fft.rfft(spoken.samples.astype(np.float64))
    count = round(len(spoken.samples) * AUDIO_SAMPLE_RATE / spoken.rate)
    kept = np.zeros(count // 2 + 1, dtype=np.complex128)
    bins = min(len(kept), len(spectrum))
    kept[:bins] = spectrum[:bins]
    wave = np.fft.irfft(kept, count)
    wave *= _LARGEST / max(float(np.abs(wave).max()), 1e-9)
    return Utterance(voice, wave.astype(np.float32), spoken.phonemes)


def write_corpus(path: Path, utterances: Sequence[Utterance]) -> None:
    """All utterances into one file, whole or not at all."""
    ipa = sorted({phoneme.ipa for spoken in utterances for phoneme in spoken.phonemes})
    code = {name: number for number, name in enumerate(ipa)}
    held = io.BytesIO()
    np.savez(
        held,
        format=np.array(_FORMAT),
        ipa=np.array(ipa),
        voices=np.array([spoken.voice for spoken in utterances]),
        samples=np.concatenate([_mu_law(spoken.samples) for spoken in utterances]),
        lengths=np.array([len(spoken.samples) for spoken in utterances]),
        phonemes=np.array([code[p.ipa] for spoken in utterances for p in spoken.phonemes], dtype=np.int16),
        starts_ms=np.array([round(p.start_s * 1000) for spoken in utterances for p in spoken.phonemes], dtype=np.int32),
        phoneme_counts=np.array([len(spoken.phonemes) for spoken in utterances]),
    )
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(lzma.compress(held.getvalue(), preset=_PRESET))
    unfinished.replace(path)


def read_corpus(path: Path) -> tuple[Utterance, ...]:
    """Raises `CorpusUnreadable`."""
    try:
        file = np.load(io.BytesIO(lzma.decompress(path.read_bytes())), allow_pickle=False)
        if int(file["format"]) != _FORMAT:
            raise CorpusUnreadable(f"{path} has format {int(file['format'])}, not {_FORMAT}")
        sounds = np.split(file["samples"], np.cumsum(file["lengths"])[:-1])
        cuts = np.cumsum(file["phoneme_counts"])[:-1]
        names = [file["ipa"][codes].tolist() for codes in np.split(file["phonemes"], cuts)]
        starts = [(ms / 1000).tolist() for ms in np.split(file["starts_ms"], cuts)]
        voices = file["voices"].tolist()
    except (lzma.LZMAError, EOFError, ValueError, KeyError, OSError) as error:
        raise CorpusUnreadable(f"{path}: {error}") from error
    return tuple(
        Utterance(voice, _from_mu_law(sound), tuple(map(Phoneme, start, name)))
        for voice, sound, start, name in zip(voices, sounds, starts, names, strict=True)
    )


def _mu_law(wave: NDArray[np.float32]) -> NDArray[np.int8]:
    curved = np.sign(wave) * np.log1p(_MU * np.abs(wave)) / np.log1p(_MU)
    return np.asarray(np.round(curved * 127), dtype=np.int8)


def _from_mu_law(coded: NDArray[np.int8]) -> NDArray[np.float32]:
    curved = coded.astype(np.float32) / 127
    return np.asarray(np.sign(curved) * np.expm1(np.abs(curved) * np.log1p(_MU)) / _MU, dtype=np.float32)
