"""Speech and the times of its phonemes from the espeak-ng library.

Knows the library's C interface and nothing of mouths. The library keeps one voice and one callback for the whole
process, so one object of this class serves it, from one thread. Times are those at which the library began each
phoneme in the samples that it gave out with the event, so sound and phonemes cannot drift apart.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SYNCHRONOUS = 2
_PHONEME_EVENTS, _PHONEMES_IN_IPA = 0x1, 0x2
_UTF8 = 1
_EVENT_LIST_END, _EVENT_PHONEME = 0, 7
_RATE, _PITCH = 1, 3
_PHONEME_BYTES = 8


class EspeakUnusable(RuntimeError):
    """The library is absent, does not know a voice, or made no sound."""


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * _PHONEME_BYTES))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True)
class Phoneme:
    """`ipa` is empty for a pause. It lasts until the next one begins."""

    start_s: float
    ipa: str


def with_ends(phonemes: Sequence[Phoneme], *, until_s: float) -> list[tuple[Phoneme, float]]:
    """Each phoneme and when it ends; the last one ends with the sound."""
    return list(zip(phonemes, [*(later.start_s for later in phonemes[1:]), until_s], strict=False))


@dataclass(frozen=True)
class Spoken:
    """Samples int16 at `rate` per second, and the phonemes in their order."""

    samples: NDArray[np.int16]
    rate: int
    phonemes: tuple[Phoneme, ...]

    @property
    def duration_s(self) -> float:
        return len(self.samples) / self.rate


class Espeak:
    """Raises `EspeakUnusable` where the library is not installed."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
        try:
            self._library = ctypes.CDLL(name)
        except OSError as error:
            raise EspeakUnusable(f"{name} cannot be loaded: {error}") from error
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, _PHONEME_EVENTS | _PHONEMES_IN_IPA)
        if self._rate <= 0:
            raise EspeakUnusable(f"espeak-ng did not start ({self._rate})")
        self._pieces: list[NDArray[np.int16]] = []
        self._phonemes: list[tuple[int, str]] = []
        self._callback = _Callback(self._take)  # kept: the library holds no reference
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, *, voice: str, words_per_minute: int, pitch: int) -> Spoken:
        """`voice` as in `espeak-ng --voices`, a variant behind a plus sign; `pitch` is 0 to 99.

        Raises `EspeakUnusable` for a voice that is not there.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise EspeakUnusable(f"espeak-ng has no voice {voice}")
        self._library.espeak_SetParameter(_RATE, words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, pitch, 0)
        self._pieces.clear()
        self._phonemes.clear()
        encoded = text.encode() + b"\0"
        failed = self._library.espeak_Synth(encoded, ctypes.c_size_t(len(encoded)), 0, 0, 0, _UTF8, None, None)
        if failed or not self._pieces:
            raise EspeakUnusable(f"espeak-ng said nothing of {text!r} as {voice} ({failed})")
        at = dict(self._phonemes)  # of several at one sample only the last is heard
        phonemes = tuple(Phoneme(sample / self._rate, ipa) for sample, ipa in sorted(at.items()))
        return Spoken(np.concatenate(self._pieces), self._rate, phonemes)

    def _take(self, samples: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).astype(np.int16))
        number = 0
        while events[number].type != _EVENT_LIST_END:
            event = events[number]
            if event.type == _EVENT_PHONEME:
                raw = ctypes.string_at(ctypes.addressof(event.id), _PHONEME_BYTES).split(b"\0")[0]
                self._phonemes.append((event.sample, raw.decode("utf-8", errors="replace")))
            number += 1
        return 0
