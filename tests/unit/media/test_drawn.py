"""Which pictures the avatar preset was trained on, and which it was not."""

import io
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from PIL import Image

from infra import samples
from tests.drawn_portrait import draw_portrait
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
    grained = np.asarray(drawn) + np.random.default_rng(1).normal(0, 8, (192, 192, 1))
    for name, picture in {
        "one colour": Image.new("RGB", (192, 192), "teal"),
        "a ramp": Image.fromarray(np.tile(np.linspace(0, 255, 192, dtype=np.uint8)[:, None, None], (1, 192, 3))),
        "noise": Image.fromarray(np.random.default_rng(1).integers(0, 255, (192, 192, 3), dtype=np.uint8)),
        "off its middle": off_its_middle,
        "grained": Image.fromarray(np.clip(grained, 0, 255).astype(np.uint8)),
    }.items():
        assert not taken_for_drawn(picture), name


def photograph(seed: int, *, grain: float) -> Image.Image:
    """What a lens makes of a person: light from one side, hair, a blurred room, and grain."""
    random = np.random.default_rng(seed)
    person = np.asarray(_person(), dtype=np.float32)
    height, width, _ = person.shape
    is_person = np.abs(person - person[:, :1]).max(axis=2, keepdims=True) > 6
    light = np.linspace(random.uniform(0.55, 0.75), random.uniform(1.0, 1.15), width)[None, :, None]
    strands = _smooth(random.normal(0, 1, (height // 32, width)), width, height)
    strands = strands[..., None] * np.where(person.max(axis=2, keepdims=True) < 90, 18, 4)
    room = np.stack([_smooth(random.normal(120, 40, (8, 6)), width, height) for _ in range(3)], axis=2)
    scene = np.where(is_person, person * light + strands, room) + random.normal(0, grain, (height, width, 1))
    return Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8)).rotate(float(random.uniform(-3, 3)))


@cache
def _person() -> Image.Image:
    return draw_portrait()


def _smooth(numbers: np.ndarray, width: int, height: int) -> np.ndarray:
    """The numbers spread over so many pixels, [height, width]."""
    picture = Image.fromarray(numbers.astype(np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
