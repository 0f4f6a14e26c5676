"""What doctor says of a GPU's size."""

import pytest

from cli.checks.network import large_preset_on
from worker.gpus import Gpu
from worker.memory_needs import GIB


@pytest.mark.parametrize(
    ("gib", "capability", "said"),
    [
        (80, (8, 0), None),
        (45, (8, 9), "--precision fp8"),
        (40, (8, 0), "too small"),  # it does not multiply 8-bit floats
        (31.8, (12, 0), "--low_memory"),
        (24, (8, 9), "too small"),
    ],
)
def test_the_cheapest_option_that_makes_a_gpu_large_enough_is_named(
    gib: float, capability: tuple[int, int], said: str | None
) -> None:
    mend = large_preset_on(Gpu(0, "a GPU", round(gib * GIB), capability))
    assert (mend is None) if said is None else (mend is not None and said in mend)
