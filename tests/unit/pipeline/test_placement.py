"""Tensors that are kept in another form than they arrive in, whatever source they come from."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.unit.pipeline import released_files as files
from worker.pipeline.checkpoint import GivenWeights, Network, RandomWeights, ReleasedWeights, WeightSource, put
from worker.pipeline.dit.dit import DiT
from worker.pipeline.published import REALVIDEO


def drawn(_: Path) -> WeightSource:
    return RandomWeights(7)


def given(_: Path) -> WeightSource:
    return GivenWeights({Network.DIT: files.base_dit()})


def released(directory: Path) -> WeightSource:
    files.save_pickle({"generator": files.generator()}, directory / REALVIDEO / "model.pt")
    return ReleasedWeights(directory)


@pytest.mark.parametrize("source", [drawn, given, released])
def test_each_tensor_is_placed_once_and_may_be_kept_in_another_form(
    source: Callable[[Path], WeightSource], tmp_path: Path
) -> None:
    with torch.device("meta"):
        module = DiT(files.DIT)
    placed: list[str] = []

    def halved(owner: nn.Module, name: str, tensor: Tensor) -> None:
        assert owner is module
        assert (tensor.dtype, tensor.device) == (torch.float64, files.CPU)
        placed.append(name)
        put(owner, name, tensor / 2)

    source(tmp_path).fill(module, Network.DIT, device=files.CPU, dtype=torch.float64, place=halved)
    whole = files.tensors(Network.DIT)
    assert sorted(placed) == sorted(whole)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.detach(), whole[name].double() / 2, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("source", [drawn, given, released])
def test_a_tensor_that_is_placed_nowhere_is_noticed(source: Callable[[Path], WeightSource], tmp_path: Path) -> None:
    with torch.device("meta"):
        module = DiT(files.DIT)

    def forgetful(owner: nn.Module, name: str, tensor: Tensor) -> None:
        if name != "head.head.bias":
            put(owner, name, tensor)

    with pytest.raises(AssertionError, match=r"head\.head\.bias"):
        source(tmp_path).fill(module, Network.DIT, device=files.CPU, dtype=torch.float32, place=forgetful)
