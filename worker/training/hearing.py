"""The audio encoder learns which sound is which, and what a mouth does for it.

Knows wav2vec2 and the labels of speech; the heads that it learns with are thrown away, its states are what the DiT
hears. It sees the time of every phoneme, so no transcript has to be aligned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate, mse_loss

from worker.pipeline.audio_encoder import AudioEncoder
from worker.pipeline.config import AUDIO_SAMPLE_RATE, VIDEO_FPS
from worker.training.acting import act, excerpt
from worker.training.ahead import Ahead
from worker.training.espeak import with_ends
from worker.training.phase_run import Losses
from worker.training.plan import Plan
from worker.training.sounds import SPEEDS, normalised, varied
from worker.training.speech import Utterance
from worker.training.visemes import letters

_FRAMES_PER_S = 50
_MARGIN = 6
"""Frames around what is learned from, in which the mouth gets to where it is."""
_NOTHING = 0
"""The class of silence."""


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
class _Example:
    wave: NDArray[np.float32]
    track: NDArray[np.float32]
    sounds: NDArray[np.int64]


class HearingLosses:
    """One batch after the other; batch n is the same in every run of the same seed."""

    def __init__(
        self, hearing: Hearing, utterances: Sequence[Utterance], plan: Plan, *, batch: int, seed: int, threads: int
    ) -> None:
        self._hearing = hearing
        self._utterances = utterances
        self._code = {sound: number for number, sound in enumerate(sounds_of(utterances), start=1)}
        self._samples = round(plan.hearing_s * VIDEO_FPS) * AUDIO_SAMPLE_RATE // VIDEO_FPS
        self._batch = batch
        self._seed = seed
        self._device = hearing.mouth.weight.device
        self._ahead = Ahead(self._examples, threads=threads, depth=2 * threads)

    def __call__(self, step: int) -> Losses:
        waves, tracks, sounds = (part.to(self._device) for part in self._ahead.take(step))
        scores_BTC, mouths_BT4 = self._hearing(waves)
        # the head looks at what the frames of a video show, at the times that it has states for
        wanted = interpolate(tracks.transpose(1, 2), mouths_BT4.shape[1], mode="linear").transpose(1, 2)
        mouth = mse_loss(mouths_BT4, wanted)
        phoneme = cross_entropy(scores_BTC.flatten(0, 1), sounds[:, : scores_BTC.shape[1]].flatten())
        return Losses(mouth * 10 + phoneme, {"mouth": mouth, "phoneme": phoneme})

    def close(self) -> None:
        """Ends the threads that make examples."""
        self._ahead.close()

    def _examples(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        generator = np.random.default_rng((self._seed, 3, step))
        examples = [self._example(generator) for _ in range(self._batch)]
        waves, tracks, sounds = (
            torch.from_numpy(np.stack(rows))
            for rows in zip(*((e.wave, e.track, e.sounds) for e in examples), strict=True)
        )
        return waves, tracks, sounds

    def _example(self, generator: np.random.Generator) -> _Example:
        frames = self._samples * VIDEO_FPS // AUDIO_SAMPLE_RATE
        whole = self._utterances[int(generator.integers(len(self._utterances)))]
        lasts_s = (frames + 2 * _MARGIN) / VIDEO_FPS * SPEEDS[1]
        start_s = float(generator.uniform(-0.3, 1.0)) * max(0.0, whole.duration_s - lasts_s)
        spoken = varied(excerpt(whole, start_s=max(0.0, start_s), duration_s=lasts_s), generator)
        acted = act(spoken, seed=0)
        wave = normalised(acted.samples) * np.float32(generator.uniform(0.7, 1.4))
        first = _MARGIN if start_s > 0 else 0  # the mouth comes from somewhere, but at the true beginning
        start = first * AUDIO_SAMPLE_RATE // VIDEO_FPS
        return _Example(
            wave=_cut(wave, start, self._samples),
            track=_cut(acted.track, first, frames),
            sounds=self._classes(spoken, start_s=first / VIDEO_FPS),
        )

    def _classes(self, spoken: Utterance, *, start_s: float) -> NDArray[np.int64]:
        """The sound at the middle of every frame of the encoder."""
        frames = self._samples * _FRAMES_PER_S // AUDIO_SAMPLE_RATE
        times = start_s + (np.arange(frames) + 0.6) / _FRAMES_PER_S
        classes = np.full(frames, _NOTHING, dtype=np.int64)
        for phoneme, end in with_ends(spoken.phonemes, until_s=spoken.duration_s):
            heard = letters(phoneme.ipa)
            for number, letter in enumerate(heard):
                length = (end - phoneme.start_s) / len(heard)
                begin = phoneme.start_s + number * length
                classes[(times >= begin) & (times < begin + length)] = self._code[letter]
        return classes


def _cut(values: NDArray[np.float32], start: int, count: int) -> NDArray[np.float32]:
    """So many rows from `start`, with zeros behind what there is."""
    kept = values[start : start + count]
    return np.pad(kept, ((0, count - len(kept)), *((0, 0),) * (kept.ndim - 1)))
