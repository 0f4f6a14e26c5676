"""Weights from a seed: the same everywhere and in any order, and of a size that keeps networks alive."""

import pytest
import torch
from torch import nn

from tests.unit.pipeline import released_files as files
from worker.pipeline.audio_encoder import AudioEncoder
from worker.pipeline.checkpoint import Network, RandomWeights, drawn
from worker.pipeline.config import PRESETS
from worker.pipeline.text_encoder import TextEncoder


class Two(nn.Module):
    def __init__(self, first: str, second: str) -> None:
        super().__init__()
        for name in (first, second):
            self.register_module(name, nn.Linear(3, 5, device="meta"))


def filled(module: nn.Module, seed: int, *, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    RandomWeights(seed).fill(module, Network.DIT, device=files.CPU, dtype=dtype)
    return dict(module.named_parameters())


def test_a_parameter_depends_on_its_name_and_not_on_the_order() -> None:
    forth, back = filled(Two("a", "b"), 1), filled(Two("b", "a"), 1)
    assert all(torch.equal(forth[name], back[name]) for name in forth)
    assert not torch.equal(forth["a.weight"], forth["b.weight"])


def test_another_seed_and_another_network_draw_other_numbers() -> None:
    first, second = filled(Two("a", "b"), 1), filled(Two("a", "b"), 2)
    assert not torch.equal(first["a.weight"], second["a.weight"])
    module = Two("a", "b")
    RandomWeights(1).fill(module, Network.VAE, device=files.CPU, dtype=torch.float32)
    assert not torch.equal(first["a.weight"], dict(module.named_parameters())["a.weight"])


def test_half_precision_is_single_precision_rounded() -> None:
    single, half = filled(Two("a", "b"), 1), filled(Two("a", "b"), 1, dtype=torch.bfloat16)
    assert all(torch.equal(single[name].bfloat16(), half[name]) for name in single)


def test_numbers_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = filled(Two("a", "b"), 1)
    monkeypatch.setattr(drawn, "_PER_DRAW", 4)
    assert all(torch.equal(at_once[name], other) for name, other in filled(Two("a", "b"), 1).items())


def test_these_very_numbers_are_drawn_on_every_machine() -> None:
    """A change here changes the pictures of every network with drawn weights."""
    weight = filled(Two("a", "b"), 0)["a.weight"]
    assert [round(x, 6) for x in weight[0].tolist()] == [-0.718757, -0.422768, 0.780989]


def test_numbers_are_spread_evenly_and_independently() -> None:
    module = nn.Linear(2000, 500, device="meta")
    weight = filled(module, 3)["weight"] * 2000**0.5
    assert abs(weight.mean()) < 0.01
    assert abs(weight.std() - 1) < 0.01
    assert abs((weight[:, 1:] * weight[:, :-1]).mean()) < 0.01
    assert abs((weight[1:] * weight[:-1]).mean()) < 0.01
    counts = torch.histc(weight, bins=16)
    assert counts.max() / counts.min() < 1.05


@pytest.mark.parametrize("seed", range(3))
def test_activations_of_the_tiny_encoders_stay_near_one(seed: int) -> None:
    tiny, weights = PRESETS["tiny"], RandomWeights(seed)
    text = TextEncoder(tiny.text, device=files.CPU, dtype=torch.float32, weights=weights).encode("A face.")
    assert 0.5 < text.rows[: text.length].std() < 2
    audio = AudioEncoder(tiny.audio, device=files.CPU, weights=weights)
    states = audio.states(torch.randn(16_000, generator=torch.Generator().manual_seed(seed)).numpy())
    for state in states:
        assert 0.2 < state.std() < 5
        assert state.std(0).mean() > 0.1  # not the same at all times


def test_the_norm_of_a_normalised_weight_is_that_of_its_direction() -> None:
    audio = AudioEncoder(PRESETS["tiny"].audio, device=files.CPU, weights=RandomWeights(0))
    conv = audio._network.encoder.pos_conv_embed.conv
    assert abs(conv.weight.std() * (conv.weight[0].numel()) ** 0.5 - 1) < 0.1
