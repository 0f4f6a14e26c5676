"""A portrait at the size of its video.

Knows pictures and the policies for the size: the reference's rule (model specification, section 12), which chooses the
size by the picture, the nearest of a few known sizes, and an exact width and height. No files, no tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

SIDE_MULTIPLE = 16
"""Pixels that must divide both sides: 8 of the VAE times 2 of the DiT's patches."""

SNAP = 64
"""The reference snaps sides to multiples of this."""

REFERENCE_AREA = 512 * 512

_RATIOS = (16 / 9, 4 / 3, 1.0)
"""Longer side to shorter side, in the reference's order: of two equally near ones the first is taken."""


class ImpossibleSize(ValueError):
    """No video can have that size."""


class UnusablePicture(ValueError):
    """The picture's shape leaves nothing to render."""


class Bars(StrEnum):
    """What happens where the reference's rounding leaves a picture smaller than its frame (quirk 10)."""

    NEVER = "never"
    """The picture is scaled up until it covers the frame."""
    BLACK = "black"
    """Black bars, as the released code has them: on every 16:9 picture."""


@dataclass(frozen=True)
class ReferenceSize:
    """About `area` pixels in a ratio of 16:9, 4:3 or 1:1, whichever is nearest to the picture's own."""

    area: int = REFERENCE_AREA
    bars: Bars = Bars.NEVER


@dataclass(frozen=True)
class ExactSize:
    """This many pixels. The picture covers them and loses the rest, half on each side. Raises `ImpossibleSize`."""

    width: int = 480
    height: int = 640

    def __post_init__(self) -> None:
        for name, side in (("width", self.width), ("height", self.height)):
            if side < SIDE_MULTIPLE or side % SIDE_MULTIPLE:
                raise ImpossibleSize(f"The {name} must be a positive multiple of {SIDE_MULTIPLE}, not {side}.")


@dataclass(frozen=True)
class NearestSize:
    """The one of these sizes whose shape is nearest to the picture's. The picture covers it, as with `ExactSize`."""

    sizes: tuple[tuple[int, int], ...]
    """Width and height in pixels of each, at least one."""

    def of(self, picture: Image.Image) -> ExactSize:
        ratio = math.log(picture.width / picture.height)
        width, height = min(self.sizes, key=lambda size: abs(math.log(size[0] / size[1]) - ratio))
        return ExactSize(width=width, height=height)


SizePolicy = ReferenceSize | NearestSize | ExactSize


class SizeRule(StrEnum):
    """The policies by name, as they are asked for."""

    EXACT = "exact"
    """A width and a height in pixels."""
    REFERENCE = "reference"
    """The picture decides: by the reference's rule, without bars, or among the sizes that the network knows."""
    REFERENCE_BARS = "reference_bars"
    """The reference's rule, black bars and all."""


def size_policy(
    rule: SizeRule, *, width: int | None, height: int | None, known: tuple[tuple[int, int], ...] = ()
) -> SizePolicy:
    """The policy of that name; width and height are of an exact size, in pixels. Raises `ImpossibleSize`.

    `known`: width and height of the only sizes that the network can draw; empty: any.
    """
    match rule:
        case SizeRule.EXACT:
            if width is None or height is None:
                raise ImpossibleSize("An exact size needs a width and a height.")
            return ExactSize(width=width, height=height)
        case SizeRule.REFERENCE:
            return NearestSize(known) if known else ReferenceSize(bars=Bars.NEVER)
        case SizeRule.REFERENCE_BARS if known:
            raise ImpossibleSize("This network has sizes of its own and makes no bars.")
        case SizeRule.REFERENCE_BARS:
            return ReferenceSize(bars=Bars.BLACK)


@dataclass(frozen=True)
class Portrait:
    """A picture ready for the encoder."""

    pixels: NDArray[np.uint8]
    """[height, width, 3], RGB."""

    @property
    def width(self) -> int:
        """Pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.pixels.shape[0])

    @property
    def cut(self) -> Literal["h", "w"]:
        """The side that sequence parallelism cuts, always the shorter one: the height of wide pictures only."""
        return "h" if self.height < self.width else "w"


def prepare(picture: Image.Image, size: SizePolicy) -> Portrait:
    """The picture upright, opaque, in RGB, at the size of the policy. Raises `UnusablePicture`."""
    upright = opaque(ImageOps.exif_transpose(picture))
    if isinstance(size, NearestSize):
        size = size.of(upright)
    if isinstance(size, ExactSize):
        return Portrait(np.asarray(_cover(upright, width=size.width, height=size.height)))
    frame = reference_frame(upright.width, upright.height, area=size.area)
    if size.bars is Bars.NEVER and not frame.covered:
        return Portrait(np.asarray(_cover(upright, width=frame.width, height=frame.height)))
    resized = upright.resize((frame.resized_width, frame.resized_height), Image.Resampling.BICUBIC)
    return Portrait(_centre(np.asarray(resized), width=frame.width, height=frame.height))


@dataclass(frozen=True)
class ReferenceFrame:
    """What the reference's rule makes of a picture's size: first resized, then cropped to width x height."""

    resized_width: int
    resized_height: int
    width: int
    height: int

    @property
    def covered(self) -> bool:
        """Whether the resized picture fills the frame; where not, the released code leaves black bars (quirk 10)."""
        return self.resized_width >= self.width and self.resized_height >= self.height


def reference_frame(width: int, height: int, *, area: int = REFERENCE_AREA) -> ReferenceFrame:
    """The reference's rule for a picture of width x height. Raises `UnusablePicture` for shapes far from any frame."""
    scale = math.sqrt(area / (width * height))
    scaled_width, scaled_height = round(width * scale), round(height * scale)
    wide = scaled_height < scaled_width
    short, long = (scaled_height, scaled_width) if wide else (scaled_width, scaled_height)
    if nearest_multiple(short) == 0:
        raise UnusablePicture(f"A picture of {width} x {height} pixels is too long and narrow for a video.")
    ratio = long / short
    target_ratio = min(_RATIOS, key=lambda candidate: abs(candidate - ratio))
    frame_short = nearest_multiple(short)
    frame_long = nearest_multiple(frame_short * target_ratio)
    if ratio > target_ratio:
        resized_short, resized_long = frame_short, int(ratio * frame_short)
    else:
        resized_short, resized_long = int(short / long * frame_long), frame_long
    if wide:
        return ReferenceFrame(resized_long, resized_short, frame_long, frame_short)
    return ReferenceFrame(resized_short, resized_long, frame_short, frame_long)


def nearest_multiple(length: float) -> int:
    """The nearest multiple of 64; of two equally near ones the larger."""
    return math.floor(length / SNAP + 0.5) * SNAP


def opaque(picture: Image.Image) -> Image.Image:
    """In RGB, on white where it is transparent."""
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return picture.convert("RGB")


def _cover(picture: Image.Image, *, width: int, height: int) -> Image.Image:
    """The largest centred part of the picture with that ratio, resized. Only that part is ever enlarged."""
    scale = min(picture.width / width, picture.height / height)
    left = (picture.width - width * scale) / 2
    top = (picture.height - height * scale) / 2
    box = (
        max(left, 0.0),
        max(top, 0.0),
        min(left + width * scale, picture.width),
        min(top + height * scale, picture.height),
    )
    return picture.resize((width, height), Image.Resampling.BICUBIC, box=box)


def _centre(pixels: NDArray[np.uint8], *, width: int, height: int) -> NDArray[np.uint8]:
    """The middle of a picture, on black where the picture is smaller; torchvision's way to round odd rests."""
    missing_rows, missing_columns = max(height - pixels.shape[0], 0), max(width - pixels.shape[1], 0)
    padded = np.pad(
        pixels,
        (
            (missing_rows // 2, (missing_rows + 1) // 2),
            (missing_columns // 2, (missing_columns + 1) // 2),
            (0, 0),
        ),
    )
    top = round((padded.shape[0] - height) / 2)
    left = round((padded.shape[1] - width) / 2)
    return np.ascontiguousarray(padded[top : top + height, left : left + width])
