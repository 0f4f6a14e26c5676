"""A clip of a person who talks, to measure encoders with: a drawn portrait, moved to the sample speech.

Knows pictures and numpy only. A drawn face is flat colour, which any encoder makes small: hair, cloth, skin and wall
get a texture that moves with them, and every frame its own grain, as a camera's or a network's frames have.
"""

import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from infra.samples import SPEECH
from tests.drawn_portrait import draw_portrait

FPS = 16

Picture = NDArray[np.float32]
"""[height, width, 3] or [height, width], levels of 0 to 255."""

_HEIGHT, _WIDTH = 640, 480
_MOUTH = (240, 372)
_EYES = ((198, 274), (282, 274))
_EYELID, _TEETH, _DARK = np.array(((222, 174, 146), (232, 226, 214), (70, 24, 26)), dtype=np.float32)
_JAW_DROP = 16.0


@dataclass(frozen=True)
class Clip:
    """`grain`: standard deviation of the noise that each frame has of its own, in levels."""

    seconds: float = 10.0
    grain: float = 2.0
    seed: int = 0

    @property
    def count(self) -> int:
        return round(self.seconds * FPS)


def frames(clip: Clip) -> Iterator[NDArray[np.uint8]]:
    """uint8 [640, 480, 3], RGB; the same for the same clip."""
    generator = np.random.default_rng(clip.seed)
    portrait = np.asarray(draw_portrait(), dtype=np.float32)
    wall = np.repeat(portrait[:, :1], _WIDTH, axis=1) + 5 * _rough(generator, blur=3.0)[..., None]
    person = np.clip(portrait + _texture(portrait, generator)[..., None], 0, 255)
    outline = cv2.GaussianBlur((np.abs(portrait - portrait[:, :1]).max(axis=2) > 6).astype(np.float32), (0, 0), 0.8)
    loudness = _loudness(clip)
    for number in range(clip.count):
        moved = _sway(number / FPS)
        talking = _blink(_open_mouth(person, loudness[number]), number)
        head = cv2.warpAffine(talking, moved, (_WIDTH, _HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        mask = cv2.warpAffine(outline, moved, (_WIDTH, _HEIGHT), borderMode=cv2.BORDER_REPLICATE)[..., None]
        scene = (wall * (1 - mask) + head * mask) * (1 + 0.01 * np.sin(2 * np.pi * 0.4 * number / FPS))
        yield np.clip(scene + clip.grain * _grain(generator), 0, 255).round().astype(np.uint8)


def write_speech(path: Path, *, seconds: float) -> Path:
    """The sample speech over and over, as WAV; returns `path`."""
    with wave.open(str(SPEECH)) as file, wave.open(str(path), "wb") as longer:
        longer.setparams(file.getparams())
        once = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        longer.writeframes(np.resize(once, round(seconds * file.getframerate())).tobytes())
    return path


def _texture(portrait: Picture, generator: np.random.Generator) -> Picture:
    """Strands in what is dark, weave in what is blue, pores elsewhere."""
    red, blue = portrait[..., 0], portrait[..., 2]
    hair, cloth = portrait.max(axis=2) < 90, blue > red + 40
    strands = cv2.GaussianBlur(_white(generator), (0, 0), sigmaX=0.8, sigmaY=9.0)
    weave = np.sin(np.arange(_WIDTH) * 2.1)[None] * np.sin(np.arange(_HEIGHT) * 2.1)[:, None]
    pores = 2.5 * _rough(generator, blur=0.8) + 2.5 * _rough(generator, blur=2.5)
    made = np.where(hair, 14 * strands / strands.std(), np.where(cloth, 6 * weave + pores, pores))
    return made.astype(np.float32)


def _loudness(clip: Clip) -> NDArray[np.float64]:
    """How far the mouth is open in each frame, 0 to 1: the speech's envelope, over and over."""
    with wave.open(str(SPEECH)) as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float64)
    step = rate // FPS
    levels = np.sqrt((samples[: len(samples) // step * step].reshape(-1, step) ** 2).mean(axis=1))
    return np.resize(levels / levels.max(), clip.count)


def _sway(time_s: float) -> NDArray[np.float64]:
    matrix = cv2.getRotationMatrix2D((240.0, 520.0), 1.6 * np.sin(2 * np.pi * 0.17 * time_s), 1.0)
    matrix[:, 2] += (6 * np.sin(2 * np.pi * 0.23 * time_s), 2.5 * np.sin(2 * np.pi * 0.31 * time_s))
    return np.asarray(matrix)


def _open_mouth(person: Picture, openness: float) -> Picture:
    """What is below the line of the lips moves down, less towards sides and neck; behind it lie teeth and darkness."""
    x0, y0 = _MOUTH
    y, x = np.mgrid[0:_HEIGHT, 0:_WIDTH].astype(np.float32)
    falloff = np.exp(-(((x - x0) / 48) ** 2) - (np.maximum(y - y0, 0) / 60) ** 2)
    drop = np.float32(_JAW_DROP * openness) * falloff
    from_y = np.where(y > y0, np.maximum(y - drop, y0), y).astype(np.float32)
    shifted = cv2.remap(person, x, from_y, cv2.INTER_CUBIC)
    inside = (y > y0) & (y < y0 + drop) & (np.abs(x - x0) < 30)
    soft = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 1.0)[..., None]
    behind = np.where((y < y0 + 5)[..., None], _TEETH, _DARK)
    return np.asarray(shifted * (1 - soft) + behind * soft, dtype=np.float32)


def _blink(person: Picture, number: int) -> Picture:
    """Three frames of every 45."""
    if number % 45 > 2:
        return person
    lids = np.zeros((_HEIGHT, _WIDTH), np.float32)
    for eye in _EYES:
        cv2.ellipse(lids, eye, (23, 15), 0, 0, 360, 1.0, -1)
    soft = cv2.GaussianBlur(lids, (0, 0), 1.0)[..., None]
    return np.asarray(person * (1 - soft) + _EYELID * soft, dtype=np.float32)


def _grain(generator: np.random.Generator) -> Picture:
    """Mostly of brightness, a little of colour, and not quite white, as behind a lens."""
    bright, colour = generator.standard_normal((_HEIGHT, _WIDTH, 1)), generator.standard_normal((_HEIGHT, _WIDTH, 3))
    noise = cv2.GaussianBlur((bright + 0.4 * colour).astype(np.float32), (0, 0), 0.6)
    return np.asarray(noise / noise.std(), dtype=np.float32)


def _rough(generator: np.random.Generator, *, blur: float) -> Picture:
    """Noise of deviation 1, smooth over `blur` pixels."""
    noise = cv2.GaussianBlur(_white(generator), (0, 0), blur)
    return np.asarray(noise / noise.std(), dtype=np.float32)


def _white(generator: np.random.Generator) -> Picture:
    return generator.standard_normal((_HEIGHT, _WIDTH)).astype(np.float32)
