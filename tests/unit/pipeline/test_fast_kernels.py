"""The DiT's fast path computes what the plain one does. Triton's interpreter stands in for the GPU."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed: `run.py test` brings it")


def test_kernels_and_blocks_are_those_of_the_plain_path() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.unit.pipeline.interpreted_dit_rows"],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    assert "12 cases held" in run.stdout
