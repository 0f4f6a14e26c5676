"""Which pictures the avatar preset was trained on, and which it was not."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from infra import samples
from tests.photograph import photograph
from worker.media.drawn import is_drawn
from worker.media.picture import NearestSize, prepare
from worker.pipeline.config import AVATAR
from worker.training.drawing import portrait
from worker.training.faces import Frame, face

FRAMES = [Frame(width, height) for width, height in AVATAR.picture_sizes]
PEOPLE = 50


def taken_for_drawn(picture: Image.Image) -> bool:
    """As a job with that picture would see it."""
    return is_drawn(prepare(picture, NearestSize(AVATAR.picture_sizes)).pixels)


def as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file)


def scaled(picture: Image.Image, times: float) -> Image.Image:
    size = (round(picture.width * times), round(picture.height * times))
    return picture.resize(size, Image.Resampling.BICUBIC)


def travelled(picture: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    """What becomes of pictures on their way."""
    yield "as drawn", picture
    yield "JPEG 50", as_jpeg(picture, 50)
    for times in (0.5, 1.37, 4.0):
        yield f"times {times}", scaled(picture, times)
        yield f"times {times}, JPEG 75", as_jpeg(scaled(picture, times), 75)


@pytest.mark.parametrize("frame", FRAMES, ids=str)
def test_drawn_people_are_known_as_they_are_resized_and_compressed(frame: Frame) -> None:
    people = [Image.fromarray(portrait(face(seed), frame)) for seed in range(PEOPLE)]
    mistaken = [
        (seed, way) for seed, one in enumerate(people) for way, seen in travelled(one) if not taken_for_drawn(seen)
    ]
    assert mistaken == []


def test_every_portrait_that_comes_with_the_code_is_known() -> None:
    files = samples.portraits()
    assert len(files) == 6
    for file in files:
        with Image.open(file) as picture:
            assert picture.size in AVATAR.picture_sizes, file
            assert taken_for_drawn(picture), file


@pytest.mark.parametrize("grain", [0.0, 3.0, 8.0])
@pytest.mark.parametrize("seed", range(4))
def test_photographs_are_told_apart(seed: int, grain: float) -> None:
    picture = photograph(seed, grain=grain)
    small = scaled(picture, 0.3)
    for seen in (picture, as_jpeg(picture, 50), small, as_jpeg(small, 50)):
        assert not taken_for_drawn(seen)


def test_pictures_of_other_kinds_are_told_apart() -> None:
    drawn = Image.fromarray(portrait(face(3), FRAMES[0]))
    off_its_middle = drawn.crop((20, 0, 192, 192))
    grained = np.asarray(drawn) + np.random.default_rng(1).normal(0, 4, (192, 192, 1))
    for name, picture in {
        "one colour": Image.new("RGB", (192, 192), "teal"),
        "a ramp": Image.fromarray(np.tile(np.linspace(0, 255, 192, dtype=np.uint8)[:, None, None], (1, 192, 3))),
        "noise": Image.fromarray(np.random.default_rng(1).integers(0, 255, (192, 192, 3), dtype=np.uint8)),
        "off its middle": off_its_middle,
        "grained": Image.fromarray(np.clip(grained, 0, 255).astype(np.uint8)),
    }.items():
        assert not taken_for_drawn(picture), name
