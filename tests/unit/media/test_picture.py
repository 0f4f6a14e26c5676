"""Portraits at the size of their video."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from worker.media.picture import (
    REFERENCE_AREA,
    Bars,
    ExactSize,
    ImpossibleSize,
    NearestSize,
    ReferenceSize,
    SizeRule,
    UnusablePicture,
    prepare,
    reference_frame,
    size_policy,
)


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(20, 250, width)[None, :]
    pixels[..., 1] = np.linspace(20, 250, height)[:, None]
    pixels[..., 2] = 200
    return Image.fromarray(pixels)


def test_an_exact_size_is_480_by_640_unless_said_otherwise() -> None:
    portrait = prepare(gradient(500, 500), ExactSize())
    assert (portrait.width, portrait.height, portrait.cut) == (480, 640, "w")
    assert portrait.pixels.dtype == np.uint8


def test_a_picture_covers_an_exact_size_and_keeps_its_middle_and_its_ratio() -> None:
    pixels = prepare(gradient(1000, 400), ExactSize(width=160, height=160)).pixels.astype(int)
    assert pixels[..., 2].min() == 200
    span = 230 * 400 / 1000  # the middle 400 columns of 1000
    assert abs((pixels[80, -1, 0] - pixels[80, 0, 0]) - span) < 4
    assert abs(pixels[80, 80, 0] - 135) < 3
    assert pixels[0, 80, 1] < 24
    assert pixels[-1, 80, 1] > 246


@pytest.mark.parametrize(("width", "height"), [(480, 641), (470, 640), (0, 16), (-16, 16), (15, 16)])
def test_a_size_the_network_cannot_make_is_refused_in_a_sentence(width: int, height: int) -> None:
    with pytest.raises(ImpossibleSize, match=r"^The (width|height) must be a positive multiple of 16, not -?\d+\.$"):
        ExactSize(width=width, height=height)


@given(width=st.integers(1, 4000), height=st.integers(1, 4000))
def test_the_rule_of_the_reference_gives_sides_that_are_multiples_of_64(width: int, height: int) -> None:
    try:
        frame = reference_frame(width, height)
    except UnusablePicture:
        assert max(width, height) > 50 * min(width, height)
        return
    assert frame.width % 64 == frame.height % 64 == 0
    assert frame.width * frame.height <= 1.3 * REFERENCE_AREA
    assert (frame.width > frame.height) <= (width > height)


@pytest.mark.parametrize("size", [(1920, 1080), (1080, 1920), (1024, 576)])
def test_bars_come_only_when_they_are_asked_for(size: tuple[int, int]) -> None:
    blue_without = prepare(gradient(*size), ReferenceSize()).pixels[..., 2]
    blue_with = prepare(gradient(*size), ReferenceSize(bars=Bars.BLACK)).pixels[..., 2]
    assert blue_without.shape == blue_with.shape
    assert blue_without.min() == 200
    black = int((blue_with == 0).all(axis=0).sum() + (blue_with == 0).all(axis=1).sum())
    assert black == 21


def test_without_a_gap_both_choices_are_the_reference() -> None:
    picture = gradient(640, 480)
    never, black = (prepare(picture, ReferenceSize(bars=bars)).pixels for bars in Bars)
    assert np.array_equal(never, black)


def test_an_odd_rest_is_cut_as_the_reference_cuts_it() -> None:
    """483 columns to 448: 35 too many, half of which is rounded to the even 18."""
    picture = gradient(335, 400)
    resized = np.asarray(picture.resize((483, 576), Image.Resampling.BICUBIC))
    assert np.array_equal(prepare(picture, ReferenceSize()).pixels, resized[:, 18 : 18 + 448])


def test_a_picture_much_longer_than_wide_is_refused_in_a_sentence() -> None:
    with pytest.raises(UnusablePicture, match=r"^A picture of 4000 x 3 pixels is too long and narrow for a video\.$"):
        prepare(gradient(4000, 3), ReferenceSize())


def test_a_strip_is_cut_before_it_is_enlarged() -> None:
    """Resized whole it would take 100 GB."""
    portrait = prepare(Image.new("RGB", (20_000, 1), "teal"), ExactSize(width=480, height=640))
    assert portrait.pixels.shape == (640, 480, 3)
    assert (portrait.pixels == (0, 128, 128)).all()


def test_the_short_side_is_cut_among_ranks() -> None:
    assert prepare(gradient(640, 480), ReferenceSize()).cut == "h"
    assert prepare(gradient(480, 640), ReferenceSize()).cut == "w"
    assert prepare(gradient(480, 480), ReferenceSize()).cut == "w"


def test_a_camera_held_sideways_is_turned_upright() -> None:
    sideways = gradient(64, 32)
    sideways.getexif()[0x0112] = 6  # to be shown turned by a quarter clockwise
    upright = prepare(sideways, ExactSize(width=32, height=64)).pixels
    assert abs(int(upright[0, 16, 0]) - int(upright[-1, 16, 0])) > 200


@pytest.mark.parametrize("mode", ["L", "P", "LA", "CMYK", "1", "RGBA", "I;16"])
def test_every_kind_of_picture_becomes_rgb(mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.full((32, 32), 50_000, dtype=np.uint16))
    else:
        picture = Image.new("RGB", (32, 32), (195, 195, 195)).convert(mode if mode != "LA" else "L").convert(mode)
    pixels = prepare(picture, ExactSize(width=16, height=16)).pixels
    assert pixels.shape == (16, 16, 3)
    if mode != "1":
        assert abs(int(pixels[8, 8, 0]) - 195) <= 3


def test_what_is_transparent_becomes_white() -> None:
    picture = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    assert (prepare(picture, ExactSize(width=16, height=16)).pixels == 255).all()


def test_a_policy_is_asked_for_by_its_name() -> None:
    wide = Image.new("RGB", (1920, 1080), "white")
    sides = {"width": 64, "height": 96}
    exact, by_picture, with_bars = (prepare(wide, size_policy(rule, **sides)) for rule in SizeRule)
    assert exact.pixels.shape == (96, 64, 3)
    assert by_picture.pixels.shape == with_bars.pixels.shape == (384, 704, 3)
    assert by_picture.pixels.min() == 255
    left, middle, right = np.split(with_bars.pixels, [10, 704 - 11], axis=1)
    assert (left.max(), middle.min(), right.max()) == (0, 255, 0)
    with pytest.raises(ImpossibleSize, match="needs a width and a height"):
        size_policy(SizeRule.EXACT, width=None, height=96)


KNOWN = ((192, 192), (144, 192))


@pytest.mark.parametrize(
    ("picture", "video"),
    [
        ((500, 500), (192, 192)), ((480, 640), (144, 192)), ((900, 1000), (192, 192)), ((840, 1000), (144, 192)),
        ((1920, 1080), (192, 192)), ((1080, 1920), (144, 192)),
    ],
)  # fmt: skip
def test_of_known_sizes_the_nearest_in_shape_is_taken_and_covered(
    picture: tuple[int, int], video: tuple[int, int]
) -> None:
    made = prepare(gradient(*picture), size_policy(SizeRule.REFERENCE, width=None, height=None, known=KNOWN))
    assert (made.width, made.height) == video
    assert made.pixels[..., 2].min() == 200


def test_a_camera_held_sideways_counts_for_the_shape_as_it_is_shown() -> None:
    sideways = gradient(640, 480)
    sideways.getexif()[0x0112] = 6
    assert prepare(sideways, NearestSize(KNOWN)).width == 144


def test_a_network_with_sizes_of_its_own_makes_no_bars() -> None:
    with pytest.raises(ImpossibleSize, match="no bars"):
        size_policy(SizeRule.REFERENCE_BARS, width=None, height=None, known=KNOWN)
