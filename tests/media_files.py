"""Sounds, pictures and videos for tests, made on the spot with known content."""

import subprocess
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.media.ffmpeg import program

Samples = NDArray[np.float64]
"""[n] or [n, channels], in -1…1."""


def sine(duration_s: float, *, rate: int, hertz: float = 440.0, level: float = 0.3) -> Samples:
    return level * np.sin(2 * np.pi * hertz * np.arange(round(duration_s * rate)) / rate)


def clicks(duration_s: float, *, rate: int, at_s: list[float], width_s: float = 0.02) -> Samples:
    """Silence, with a burst of 1 kHz that begins at each of the times."""
    sound = np.zeros(round(duration_s * rate))
    burst = sine(width_s, rate=rate, hertz=1000.0, level=0.8)
    for time_s in at_s:
        start = round(time_s * rate)
        sound[start : start + len(burst)] = burst[: len(sound) - start]
    return sound


def write_wav(path: Path, samples: Samples, *, rate: int) -> Path:
    """16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path


def convert(source: Path, path: Path, *options: str) -> Path:
    """Whatever ffmpeg makes of `source` by the name of `path`."""
    return make(path, "-i", str(source), *options)


def make(path: Path, *options: str) -> Path:
    command = [program(), "-nostdin", "-v", "error", "-y", *options, str(path)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    return path


def decoded(path: Path, *, rate: int, channels: int = 1) -> NDArray[np.float32]:
    """The first sound track, [n, channels]."""
    command = [program(), "-nostdin", "-v", "error", "-i", str(path), "-map", "0:a:0"]
    command += ["-ac", str(channels), "-ar", str(rate), "-f", "f32le", "pipe:1"]
    done = subprocess.run(command, check=True, timeout=60, capture_output=True)
    return np.frombuffer(done.stdout, dtype="<f4").reshape(-1, channels)


def onsets(sound: NDArray[np.float32], *, rate: int, threshold: float = 0.2) -> list[float]:
    """Seconds at which silence ends."""
    loud = np.flatnonzero(np.abs(sound) > threshold)
    starts = loud[np.concatenate(([True], np.diff(loud) > rate // 20))]
    return [float(start) / rate for start in starts]
