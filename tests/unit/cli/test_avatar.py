from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cli.errors import CommandError
from cli.main import command_line
from infra.samples.make import draw_portraits

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


def test_without_a_name_the_file_is_called_by_the_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in ("7", "8"):
        assert RUNNER.invoke(command_line(), ["avatar", "draw", "--seed", seed]).exit_code == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["person-7.png", "person-8.png"]


def test_the_portraits_that_come_along_are_listed_and_are_who_their_seeds_say(tmp_path: Path) -> None:
    listed = [Path(line) for line in RUNNER.invoke(command_line(), ["avatar", "portraits"]).output.splitlines()]
    draw_portraits(tmp_path)
    drawn = sorted(tmp_path.iterdir())
    assert [file.name for file in listed] == [file.name for file in drawn]
    for kept, again in zip(listed, drawn, strict=True):
        with Image.open(kept) as one, Image.open(again) as other:
            assert one.size == other.size
            assert np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max() <= 1


def test_a_file_that_is_no_png_is_refused(tmp_path: Path) -> None:
    answered = RUNNER.invoke(command_line(), ["avatar", "draw", "--output", str(tmp_path / "face.jpg")])
    assert isinstance(answered.exception, CommandError)
    with pytest.raises(CommandError, match=r"face\.jpg"):
        raise answered.exception
