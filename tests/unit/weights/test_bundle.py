"""The weights that come with the code."""

from pathlib import Path

import pytest
from safetensors import safe_open

from worker.weights.catalog import BUNDLED

ROOT = Path(__file__).parents[3]
MOST_BYTES = 20_000_000


@pytest.mark.parametrize("preset", BUNDLED)
def test_a_bundle_is_small_and_in_half_precision(preset: str) -> None:
    assert BUNDLED[preset].stat().st_size <= MOST_BYTES
    with safe_open(BUNDLED[preset], framework="numpy") as file:
        types = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - it is no mapping
    assert types == {"F16"}


@pytest.mark.parametrize("preset", BUNDLED)
def test_a_bundle_lies_where_images_and_wheels_take_it_along(preset: str) -> None:
    room = BUNDLED[preset].relative_to(ROOT).parts[0]
    taken = (ROOT / ".dockerignore").read_text().splitlines()
    assert f"!{room}" in taken
    assert [line for line in taken if "safetensors" in line or "weights" in line] == []
    assert f'"{room}"' in (ROOT / "pyproject.toml").read_text().split("packages = ", 1)[1].split("]", 1)[0]
