"""The parts around the DiT against small goldens of the reference (cut down: see `tests.parity` for whole sets)."""

from pathlib import Path

import pytest
import torch

from tests.parity import bucket, image, padding, text, wav2vec
from tests.parity.parts import Check

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "check", [image.check, padding.check, bucket.check, wav2vec.check, text.check], ids=lambda c: c.__module__
)
def test_part_computes_what_the_reference_computed(check: Check, dtype: torch.dtype) -> None:
    result = check(GOLDEN, dtype)
    assert result.within, result.line()
