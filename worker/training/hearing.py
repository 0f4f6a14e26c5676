"""The audio encoder learns which sound is which, and what a mouth does for it.

Knows wav2vec2 and the labels of speech; the heads that it learns with are thrown away, its states are what the DiT
hears. It sees the time of every phoneme, so no transcript has to be aligned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, mse_loss

from worker.pipeline.audio_encoder import AudioEncoder
from worker.pipeline.config import AUDIO_SAMPLE_RATE, VIDEO_FPS
from worker.training.acting import act, excerpt
from worker.training.espeak import with_ends
from worker.training.gradients import Examples, Losses
from worker.training.plan import Plan
from worker.training.sounds import SPEEDS, normalised, varied
from worker.training.speech import Utterance
from worker.training.visemes import letters

_FRAMES_PER_S = 50
_MARGIN = 6
"""Frames around what is learned from, in which the mouth gets to where it is."""
_NOTHING = 0
"""The class of silence."""
_MOUTH = 30.0
"""How much the mouth's error, a few thousandths, counts beside that of the sounds."""
_DOUBT = 0.1
"""Share of a sound's certainty that is spread over all sounds: other languages have sounds that lie between."""
_FAINTEST_DB = 50.0


class Hearing(nn.Module):
    """wav2vec2, with a head for the phoneme and one for the mouth at every frame."""

    def __init__(self, encoder: AudioEncoder, *, width: int, sounds: Sequence[str]) -> None:
        super().__init__()
        self.network = encoder._network
        self.phoneme = nn.Linear(width, len(sounds) + 1)
        self.mouth = nn.Linear(width, 4)

    def forward(self, waves_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B, T, sounds + 1] and mouths [B, T, 4], 50 per second."""
        heard_BTD = self.network(waves_BS).last_hidden_state
        return self.phoneme(heard_BTD), self.mouth(heard_BTD)


def sounds_of(utterances: Sequence[Utterance]) -> tuple[str, ...]:
    """All sounds that occur, in an order that does not change."""
    return tuple(sorted({letter for u in utterances for p in u.phonemes for letter in letters(p.ipa)}))


@dataclass(frozen=True)
class Heard:
    """A piece of speech and what belongs to it."""

    wave: NDArray[np.float16]
    track: NDArray[np.float32]
    """[T, 4], 16 per second."""
    sounds: NDArray[np.uint8]
    """The number of the sound at the middle of every frame of the encoder, 50 per second; 0 is silence."""


@dataclass(frozen=True)
class Listening:
    """Makes examples; the one of a number is the same for a seed."""

    codes: Mapping[str, int]
    samples: int
    seed: int

    @classmethod
    def of(cls, sounds: Sequence[str], plan: Plan, *, seed: int) -> Listening:
        samples = round(plan.hearing_s * VIDEO_FPS) * AUDIO_SAMPLE_RATE // VIDEO_FPS
        return cls({sound: number for number, sound in enumerate(sounds, start=1)}, samples, seed)

    def __call__(self, utterances: Sequence[Utterance], number: int) -> Heard:
        generator = np.random.default_rng((self.seed, 3, number))
        frames = self.samples * VIDEO_FPS // AUDIO_SAMPLE_RATE
        whole = utterances[int(generator.integers(len(utterances)))]
        lasts_s = (frames + 2 * _MARGIN) / VIDEO_FPS * SPEEDS[1]
        start_s = float(generator.uniform(-0.3, 1.0)) * max(0.0, whole.duration_s - lasts_s)
        spoken = varied(excerpt(whole, start_s=max(0.0, start_s), duration_s=lasts_s), generator)
        acted = act(spoken, seed=0)
        wave = normalised(acted.samples) * np.float32(generator.uniform(0.7, 1.4))
        first = _MARGIN if start_s > 0 else 0  # the mouth comes from somewhere, but at the true beginning
        start = first * AUDIO_SAMPLE_RATE // VIDEO_FPS
        return Heard(
            wave=_cut(wave, start, self.samples).astype(np.float16),
            track=_cut(acted.track, first, frames),
            sounds=self._classes(spoken, start_s=first / VIDEO_FPS),
        )

    def _classes(self, spoken: Utterance, *, start_s: float) -> NDArray[np.uint8]:
        frames = self.samples * _FRAMES_PER_S // AUDIO_SAMPLE_RATE
        times = start_s + (np.arange(frames) + 0.6) / _FRAMES_PER_S
        classes = np.full(frames, _NOTHING, dtype=np.uint8)
        for phoneme, end in with_ends(spoken.phonemes, until_s=spoken.duration_s):
            heard = letters(phoneme.ipa)
            for number, letter in enumerate(heard):
                length = (end - phoneme.start_s) / len(heard)
                begin = phoneme.start_s + number * length
                classes[(times >= begin) & (times < begin + length)] = self.codes[letter]
        return classes


class HearingLesson:
    """Some of the pieces at every step, each with another voice behind it and in noise, so that none comes twice."""

    def __init__(self, hearing: Hearing, pieces: Iterable[Heard], *, batch: int, seed: int) -> None:
        device = hearing.mouth.weight.device
        waves, tracks, sounds = zip(*((piece.wave, piece.track, piece.sounds) for piece in pieces), strict=True)
        self._waves, self._tracks, self._sounds = (
            torch.from_numpy(np.stack(part)).to(device) for part in (waves, tracks, sounds)
        )
        self._hearing = hearing
        self._batch = batch
        self._seed = seed

    def examples(self, step: int) -> Examples:
        """As `Lesson.examples`."""
        chosen = np.random.default_rng((self._seed, 8, step))
        device = self._waves.device
        own, others = torch.from_numpy(chosen.integers(len(self._waves), size=(2, self._batch))).to(device)
        drawn = torch.Generator(device).manual_seed(int(chosen.integers(2**62)))
        voices, noise = (_fainter(chosen, self._batch, at_least_db=least).to(device) for least in (12.0, 15.0))
        waves = self._waves[own].float()
        waves = waves + voices * self._waves[others] + noise * torch.randn(waves.shape, generator=drawn, device=device)
        return Examples(0, {"waves": waves, "tracks": self._tracks[own], "sounds": self._sounds[own].long()})

    def losses(self, examples: Examples) -> Losses:
        """As `Lesson.losses`."""
        tracks, sounds = examples.tensors["tracks"], examples.tensors["sounds"]
        scores_BTC, mouths_BT4 = self._hearing(examples.tensors["waves"])
        # the head looks at what the frames of a video show, at the times that it has states for
        wanted = interpolate(tracks.transpose(1, 2), mouths_BT4.shape[1], mode="linear").transpose(1, 2)
        mouth = mse_loss(mouths_BT4, wanted)
        phoneme = cross_entropy(
            scores_BTC.flatten(0, 1), sounds[:, : scores_BTC.shape[1]].flatten(), label_smoothing=_DOUBT
        )
        return Losses(_MOUTH * mouth + phoneme, {"mouth": mouth, "phoneme": phoneme})


def _fainter(chosen: np.random.Generator, count: int, *, at_least_db: float) -> Tensor:
    """Factors of something in the background, [count, 1]."""
    below_db = chosen.uniform(at_least_db, _FAINTEST_DB, size=(count, 1))
    return torch.from_numpy(10 ** (-below_db / 20)).float()


def _cut(values: NDArray[np.float32], start: int, count: int) -> NDArray[np.float32]:
    """So many rows from `start`, with zeros behind what there is."""
    kept = values[start : start + count]
    return np.pad(kept, ((0, count - len(kept)), *((0, 0),) * (kept.ndim - 1)))
