"""Which device a rank takes, and what it says when there is none such."""

from pathlib import Path

import pytest
import torch

from worker.group.errors import GroupRefused
from worker.group.messages import Launch
from worker.group.renderer import open_pipeline
from worker.pipeline.precision import Precision


def launch(directory: Path, **changes: object) -> Launch:
    settings = {
        "rank": 1, "world_size": 3, "rendezvous": directory / "store", "preset": "tiny", "weights": None,
        "device": "auto", "threads": 1, "collective_timeout_s": 1.0,
    }  # fmt: skip
    return Launch(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_gpu_that_pytorch_does_not_find_is_never_replaced_by_a_processor(device: str, tmp_path: Path) -> None:
    beyond = torch.cuda.device_count()
    with pytest.raises(GroupRefused, match=rf"rank 1 of 3 is to run on GPU {beyond}, and PyTorch .* finds {beyond}"):
        open_pipeline(launch(tmp_path, device=device, gpu=beyond))


def test_eight_bits_are_refused_on_a_processor_with_what_to_use_instead(tmp_path: Path) -> None:
    with pytest.raises(GroupRefused, match=r"precision fp8 needs an NVIDIA GPU .* use bf16"):
        open_pipeline(launch(tmp_path, device="cpu", rank=0, world_size=1, precision=Precision.FP8))
