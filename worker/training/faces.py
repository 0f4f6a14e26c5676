"""Cartoon faces: who somebody is, as numbers drawn from a seed, and where the parts of a face lie.

Knows proportions and colours; draws nothing. Lengths are in units of the face: `Frame.unit` pixels each. Whoever it is,
the mouth lies within `MOUTH_BOX`, so it can be found again in any picture of one of these faces.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

Colour = tuple[float, float, float]
"""Red, green, blue, 0 to 1."""

MOUTH_BOX = (-0.25, 0.13, 0.25, 0.46)
"""Left, top, right and bottom of where lips and what is between them can be, from the middle of the face."""
EYE_BOX = (-0.30, -0.13, 0.30, 0.10)

INSIDE: Colour = (0.17, 0.02, 0.04)
"""Of every mouth: darker and redder than any skin, lip or hair here."""
TEETH: Colour = (0.97, 0.96, 0.93)
TONGUE: Colour = (0.72, 0.24, 0.28)

LANDSCAPE_SHARE = 0.8
"""Of the height that the unit takes in a picture as wide as high."""


@dataclass(frozen=True)
class Frame:
    """A picture's size in pixels."""

    width: int
    height: int

    @property
    def unit(self) -> float:
        """Pixels of one unit of the face."""
        return min(float(self.width), LANDSCAPE_SHARE * self.height)

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the face, x and y in pixels."""
        return self.width / 2, 0.46 * self.height

    def box(self, units: tuple[float, float, float, float]) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in whole pixels of a box in units, cut at the edges of the picture."""
        (x, y), unit = self.centre, self.unit
        left, top, right, bottom = units
        return (
            max(0, int(np.floor(x + left * unit))),
            max(0, int(np.floor(y + top * unit))),
            min(self.width, int(np.ceil(x + right * unit))),
            min(self.height, int(np.ceil(y + bottom * unit))),
        )


class Hair(IntEnum):
    BALD = 0
    SHORT = 1
    LONG = 2
    BUN = 3
    CURLS = 4
    FRINGE = 5


class Glasses(IntEnum):
    NONE = 0
    ROUND = 1
    SQUARE = 2


class Background(IntEnum):
    PLAIN = 0
    GRADIENT = 1
    DISC = 2


@dataclass(frozen=True)
class Face:
    """One person, and the place where he or she sits."""

    skin: Colour
    lips: Colour
    hair: Hair
    hair_colour: Colour
    brow_colour: Colour
    iris: Colour
    glasses: Glasses
    glasses_colour: Colour
    background: Background
    background_colours: tuple[Colour, Colour]
    shirt: Colour
    collar: Colour
    head: tuple[float, float]
    """Half width and half height."""
    chin: float
    """Half width of the jaw."""
    ears: float
    eye_distance: float
    eye_size: tuple[float, float]
    brow: tuple[float, float, float]
    """Height above the middle, thickness, slant."""
    nose: tuple[float, float]
    """Half width and length."""
    cheeks: float
    """How red they are, 0 to 1."""
    mouth_y: float
    mouth_width: float
    """Half width at rest."""
    mouth_height: float
    """Half the distance of the lips when open as far as they go."""
    lip_thickness: float
    inside: Colour = INSIDE


_SKINS: tuple[Colour, ...] = (
    (0.98, 0.86, 0.77),
    (0.95, 0.79, 0.67),
    (0.89, 0.70, 0.55),
    (0.80, 0.58, 0.42),
    (0.66, 0.45, 0.31),
    (0.53, 0.36, 0.25),
)
_HAIRS: tuple[Colour, ...] = (
    (0.10, 0.09, 0.10),
    (0.26, 0.17, 0.11),
    (0.45, 0.28, 0.14),
    (0.66, 0.36, 0.14),
    (0.88, 0.72, 0.38),
    (0.75, 0.75, 0.77),
    (0.55, 0.20, 0.42),
    (0.20, 0.35, 0.55),
)
_IRISES: tuple[Colour, ...] = ((0.30, 0.20, 0.12), (0.25, 0.45, 0.65), (0.28, 0.48, 0.30), (0.40, 0.42, 0.46))


def face(seed: int) -> Face:
    """The person of a seed: always the same."""
    generator = np.random.default_rng((seed, 1))
    skin = _between(_SKINS, generator)
    hair_colour = _jittered(_pick(_HAIRS, generator), 0.03, generator)
    bright, other = _pastel(generator), _pastel(generator)
    return Face(
        skin=skin,
        lips=_mixed(skin, (0.74, 0.22, 0.27), float(generator.uniform(0.45, 0.8))),
        hair=Hair(int(generator.integers(len(Hair)))),
        hair_colour=hair_colour,
        brow_colour=_mixed(hair_colour, (0.15, 0.1, 0.08), 0.4),
        iris=_jittered(_pick(_IRISES, generator), 0.04, generator),
        glasses=Glasses(int(generator.choice([0, 0, 0, 1, 2]))),
        glasses_colour=_pick(((0.1, 0.1, 0.12), (0.55, 0.15, 0.15), (0.2, 0.25, 0.5), (0.6, 0.45, 0.2)), generator),
        background=Background(int(generator.integers(len(Background)))),
        background_colours=(bright, _mixed(bright, other, 0.6)),
        shirt=_saturated(generator),
        collar=_saturated(generator),
        head=(float(generator.uniform(0.295, 0.345)), float(generator.uniform(0.40, 0.45))),
        chin=float(generator.uniform(0.20, 0.27)),
        ears=float(generator.uniform(0.045, 0.075)),
        eye_distance=float(generator.uniform(0.125, 0.15)),
        eye_size=(float(generator.uniform(0.058, 0.075)), float(generator.uniform(0.040, 0.058))),
        brow=(
            float(generator.uniform(0.135, 0.165)),
            float(generator.uniform(0.012, 0.024)),
            float(generator.uniform(-0.02, 0.025)),
        ),
        nose=(float(generator.uniform(0.03, 0.05)), float(generator.uniform(0.07, 0.11))),
        cheeks=float(generator.uniform(0.0, 0.5)),
        mouth_y=float(generator.uniform(0.255, 0.285)),
        mouth_width=float(generator.uniform(0.115, 0.15)),
        mouth_height=float(generator.uniform(0.075, 0.1)),
        lip_thickness=float(generator.uniform(0.014, 0.024)),
    )


def _pick(colours: tuple[Colour, ...], generator: np.random.Generator) -> Colour:
    return colours[int(generator.integers(len(colours)))]


def _between(colours: tuple[Colour, ...], generator: np.random.Generator) -> Colour:
    place = float(generator.uniform(0, len(colours) - 1))
    lower = int(place)
    return _mixed(colours[lower], colours[min(lower + 1, len(colours) - 1)], place - lower)


def _mixed(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (a * (1 - share) + b * share for a, b in zip(one, other, strict=True))
    return red, green, blue


def _jittered(colour: Colour, deviation: float, generator: np.random.Generator) -> Colour:
    red, green, blue = np.clip(np.array(colour) + generator.normal(0, deviation, 3), 0, 1).tolist()
    return red, green, blue


def _pastel(generator: np.random.Generator) -> Colour:
    red, green, blue = generator.uniform(0.55, 0.97, 3).tolist()
    return red, green, blue


def _saturated(generator: np.random.Generator) -> Colour:
    red, green, blue = generator.uniform(0.1, 0.9, 3).tolist()
    return red, green, blue
