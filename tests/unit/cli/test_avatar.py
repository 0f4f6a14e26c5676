from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cli.errors import CommandError
from cli.main import command_line

RUNNER = CliRunner()


def _drawn(file: Path, *options: str) -> np.ndarray:
    answered = RUNNER.invoke(command_line(), ["avatar", "draw", "--output", str(file), *options])
    assert answered.exit_code == 0, answered.output
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def test_a_seed_draws_one_person_in_the_shape_asked_for(tmp_path: Path) -> None:
    one, again = (_drawn(tmp_path / f"{name}.png", "--seed", "7") for name in ("one", "again"))
    other = _drawn(tmp_path / "other.png", "--seed", "8", "--shape", "upright")
    assert np.array_equal(one, again)
    assert one.shape == (192, 192, 3)
    assert other.shape == (192, 144, 3)
    assert one.std() > 20


def test_a_file_that_is_no_png_is_refused(tmp_path: Path) -> None:
    answered = RUNNER.invoke(command_line(), ["avatar", "draw", "--output", str(tmp_path / "face.jpg")])
    assert isinstance(answered.exception, CommandError)
    with pytest.raises(CommandError, match=r"face\.jpg"):
        raise answered.exception
