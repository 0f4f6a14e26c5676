"""A text encoder that stays on the host, mapped from its file, and what a GPU is spared by it."""

import os
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from api.settings import ApiSettings
from tests.unit.pipeline import text_and_report
from tests.unit.pipeline.released_files import save_pickle, save_shards
from worker.pipeline.checkpoint import Network, RandomWeights
from worker.pipeline.compute import Compute
from worker.pipeline.config import preset
from worker.pipeline.encoders import Encoders
from worker.pipeline.precision import MemoryUse
from worker.pipeline.prompt import USUAL_PROMPT
from worker.pipeline.published import S2V, T2V_DIFFUSERS
from worker.pipeline.settings import RenderInputs, RenderSettings
from worker.pipeline.text_encoder import TextEncoder

CPU = torch.device("cpu")


def pickle(directory: Path) -> None:
    save_pickle(drawn(), directory / S2V / "models_t5_umt5-xxl-enc-bf16.pth")


def shards(directory: Path) -> None:
    save_shards(drawn(), directory / T2V_DIFFUSERS / "text_encoder", "model", count=2)


def drawn() -> dict[str, torch.Tensor]:
    """Of a size that can be told from what a process takes anyhow."""
    small = replace(text_and_report.SIZES, vocab_size=1)
    network = TextEncoder(small, device=CPU, dtype=torch.bfloat16, weights=RandomWeights(3))._network
    held = {name: parameter.detach() for name, parameter in network.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    rows = text_and_report.SIZES.vocab_size
    return held | {"shared.weight": torch.randn(rows, small.dim, generator=generator).to(torch.bfloat16)}


@pytest.mark.parametrize("write", [pickle, shards])
def test_a_mapped_text_encoder_takes_no_memory_and_says_the_same(write: Callable[[Path], None], tmp_path: Path) -> None:
    """And of one that is not, the table of words takes none either."""
    write(tmp_path)
    (mapped, mapped_sum), (copied, copied_sum) = reported(tmp_path)
    assert mapped_sum == copied_sum
    assert mapped_sum > 1
    passing = 0.3 * text_and_report.WORDS_BYTES
    assert mapped < passing
    assert text_and_report.BLOCKS_BYTES < copied < text_and_report.BLOCKS_BYTES + passing


def reported(directory: Path) -> list[tuple[int, float]]:
    """For low memory and for ample, the growth of a process that loads and encodes, and the sum over the embedding."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.pipeline.text_and_report", str(directory)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return [(int(grown), float(total)) for grown, total in map(str.split, done.stdout.splitlines())]


class Noting:
    """Drawn weights, and of each network where its tensors go."""

    def __init__(self) -> None:
        self.places: dict[Network, set[str]] = {}
        self._weights = RandomWeights(0)

    def fill(
        self,
        module: nn.Module,
        network: Network,
        *,
        device: torch.device,
        dtype: torch.dtype,
        on_host: Collection[str] = (),
    ) -> None:
        self.places[network] = {"host" if name in on_host else "device" for name, _ in module.named_parameters()}
        self._weights.fill(module, network, device=device, dtype=dtype, on_host=on_host)

    def tokenizer_directory(self) -> None:
        return None


def test_only_the_text_encoder_stays_on_the_host_and_knows_the_usual_prompt_from_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = Noting()
    encoded: list[str] = []
    encode = TextEncoder.encode
    monkeypatch.setattr(TextEncoder, "encode", lambda self, prompt: encoded.append(prompt) or encode(self, prompt))
    encoders = Encoders.load(preset("tiny"), compute=Compute.on(CPU, memory=MemoryUse.LOW), weights=weights)
    assert weights.places == {Network.TEXT: {"host"}, Network.AUDIO: {"device"}, Network.VAE: {"device"}}
    assert encoded == [USUAL_PROMPT]
    for _ in range(2):
        encoders.encode(settings(USUAL_PROMPT), inputs())
    assert encoded == [USUAL_PROMPT]
    encoders.encode(settings("A cat."), inputs())
    assert encoded == [USUAL_PROMPT, "A cat."]


def settings(prompt: str) -> RenderSettings:
    return RenderSettings(height=64, width=64, frames=5, seed=0, denoising_steps=2, prompt=prompt)


def inputs() -> RenderInputs:
    return RenderInputs(
        read_samples=lambda count: np.zeros(count, np.float32),
        total_samples=16_000,
        image=np.zeros((64, 64, 3), np.uint8),
    )


def test_the_usual_prompt_is_the_one_that_the_api_fills_in() -> None:
    assert ApiSettings.model_fields["default_prompt"].default == USUAL_PROMPT
