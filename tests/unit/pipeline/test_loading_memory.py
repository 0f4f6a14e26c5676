"""How much host memory a load takes beyond the weights themselves."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.unit.pipeline.released_files import save_pickle, save_shards

LAYERS, WIDTH = 12, 3072
LAYER_BYTES = WIDTH * WIDTH * 2
SHARDS = 4
SHARD_BYTES = LAYERS * LAYER_BYTES // SHARDS


def held() -> dict[str, torch.Tensor]:
    return {f"{n:02}.weight".lstrip("0") if n else "0.weight": layer(n) for n in range(LAYERS)}


def layer(number: int) -> torch.Tensor:
    return torch.full((WIDTH, WIDTH), float(number), dtype=torch.bfloat16)


def growth(path: Path) -> int:
    """Bytes by which a process grew at its peak, less the weights, which on a CPU stay in the same memory."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.pipeline.load_and_report", str(path), str(LAYERS), str(WIDTH)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[0]) - LAYERS * LAYER_BYTES


def test_shards_are_loaded_with_less_than_one_and_a_fifth_of_the_largest_beside_the_weights(tmp_path: Path) -> None:
    index = save_shards(held(), tmp_path, "model", count=SHARDS)
    assert growth(index) < 1.2 * SHARD_BYTES


def test_a_pickle_is_never_read_whole_into_memory_of_its_own(tmp_path: Path) -> None:
    path = save_pickle({"generator": held()}, tmp_path / "model.pt")
    assert growth(path) < 1.2 * LAYERS * LAYER_BYTES
