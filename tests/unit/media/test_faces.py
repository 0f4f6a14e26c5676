"""Which frame makes the better portrait."""

import numpy as np
from PIL import Image, ImageFilter

from tests.drawn_portrait import draw_portrait as portrait
from worker.media.faces import face_score, sharpness, small_grey


def test_a_face_is_found_at_any_size_of_the_picture() -> None:
    assert face_score(small_grey(portrait())) > 0
    assert face_score(small_grey(portrait().resize((1920, 2560)))) > 0


def test_no_face_scores_nothing() -> None:
    noise = np.random.default_rng(1).integers(0, 255, (480, 360), dtype=np.uint8)
    assert face_score(noise) == 0
    assert face_score(small_grey(portrait().rotate(180))) == 0


def test_a_sharp_face_is_better_than_a_blurred_one_and_a_near_one_than_a_far_one() -> None:
    near = portrait()
    far = Image.new("RGB", near.size, "grey")
    far.paste(near.resize((240, 320)), (120, 160))
    assert face_score(small_grey(near)) > face_score(small_grey(near.filter(ImageFilter.GaussianBlur(6))))
    assert face_score(small_grey(near)) > face_score(small_grey(far)) > 0


def test_sharpness_falls_with_blur_and_is_nothing_for_one_colour() -> None:
    sharp = small_grey(portrait())
    assert sharpness(sharp) > sharpness(small_grey(portrait().filter(ImageFilter.GaussianBlur(3)))) > 0
    assert sharpness(np.full((20, 20), 77, dtype=np.uint8)) == 0
    assert sharpness(np.zeros((2, 2), dtype=np.uint8)) == 0
