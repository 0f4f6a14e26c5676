"""Which preset is meant where none is named."""

from pathlib import Path

import pytest

from worker.gpus import Gpu
from worker.usual_preset import usual_preset

GPU = Gpu(0, "NVIDIA H200", 141 * 2**30, (9, 0))


@pytest.mark.parametrize(
    ("weights", "gpus", "name", "why"),
    [
        (Path("weights"), [GPU], "14b", None),
        (None, [GPU], "avatar", "No 14B weights were given (--weights), so"),
        (None, [], "avatar", "No 14B weights were given (--weights), so"),
        (Path("weights"), [], "avatar", "No GPU was found, so"),
    ],
)
def test_the_released_network_takes_weights_and_a_gpu(
    weights: Path | None, gpus: list[Gpu], name: str, why: str | None
) -> None:
    chosen = usual_preset(weights=weights, gpus=gpus, weights_named_by="--weights")
    assert chosen.name == name
    if why is None:
        assert chosen.why is None
    else:
        assert chosen.why is not None
        assert chosen.why.startswith(why)
        assert "drawn portraits only" in chosen.why
