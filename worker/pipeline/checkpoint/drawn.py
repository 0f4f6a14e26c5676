"""Weights drawn from a seed, for networks whose released files are not at hand.

Knows how large the numbers of a parameter have to be so that activations stay near one. Every number is a pure function
of (seed, network, parameter name, place), made with integers only: the same on every rank, device and release of
PyTorch, and whatever is filled first. Numbers are uniform, since the logarithm of a normal draw rounds differently from
device to device.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from worker.pipeline.checkpoint.fill import HOST, Place, assert_filled, put, wanted_shapes
from worker.pipeline.checkpoint.names import Network
from worker.pipeline.checkpoint.readers import Shape

_PER_DRAW = 2**24
"""Numbers drawn at once; bounds the memory for the integers."""

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0x7FEB352D, 0x31848BAB)
"""Odd and below 2^31, so that a product with a 32-bit word stays within int64."""


class RandomWeights:
    """A source that draws every parameter of every network from `seed`."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def fill(
        self,
        module: nn.Module,
        network: Network,
        *,
        device: torch.device,
        dtype: torch.dtype,
        place: Place = put,
        on_host: Collection[str] = (),
    ) -> None:
        """As `WeightSource.fill`; the numbers depend on seed, network and name only.

        Those for the host are drawn on `device` too, since for billions a processor takes minutes, and move in pieces.
        """
        shapes = wanted_shapes(module)
        for name, shape in shapes.items():
            key = hashlib.sha256(f"{self._seed}/{network}/{name}".encode()).digest()
            spread = _spread(name, shape, shapes)
            into = torch.empty(shape, device=HOST if name in on_host else device, dtype=dtype)
            _draw(into.view(-1), key, spread, device=device)
            place(module, name, into)
        assert_filled(module)

    def tokenizer_directory(self) -> Path | None:
        """None: a prompt's bytes are its ids."""
        return None


@dataclass(frozen=True)
class _Spread:
    """Uniform on `centre` ± `half_width`."""

    centre: float
    half_width: float

    @classmethod
    def of_deviation(cls, deviation: float) -> _Spread:
        return cls(0.0, math.sqrt(3.0) * deviation)


def _spread(name: str, shape: Shape, shapes: Mapping[str, Shape]) -> _Spread:
    """The sizes that the networks' own initialisations have, with scales and biases that are not all alike."""
    leaf = name.rpartition(".")[2]
    if leaf == "weights":  # the mix of audio states, which is divided by its own sum
        return _Spread(0.01, 0.005)
    if leaf == "original0":  # weight norm: the length of what it scales, so that the two together keep variance
        direction = shapes[name.removesuffix("original0") + "original1"]
        return _Spread(math.sqrt(math.prod(direction) / shape[-1]) * _fan_in_deviation(direction), 0.0)
    if leaf == "gamma" or (leaf == "weight" and len(shape) == 1):
        return _Spread(1.0, 0.1)
    if leaf == "bias":
        return _Spread(0.0, 0.02)
    if leaf in ("modulation", "padding_tokens") or name == "trainable_cond_mask.weight":
        return _Spread.of_deviation(shape[-1] ** -0.5)
    if name == "shared.weight":
        return _Spread.of_deviation(1.0)
    if name.endswith("relative_attention_bias.weight"):
        return _Spread.of_deviation(0.5)
    if name.endswith("SelfAttention.q.weight"):  # UMT5 does not scale its scores
        return _Spread.of_deviation(0.25 * _fan_in_deviation(shape))
    if name == "decoder.conv_out.weight":  # a quarter of the range, so that few pixels are clipped
        return _Spread.of_deviation(0.5 * _fan_in_deviation(shape))
    return _Spread.of_deviation(_fan_in_deviation(shape))


def _fan_in_deviation(shape: Shape) -> float:
    return 1.0 / math.sqrt(math.prod(shape[1:]))


def _draw(into: Tensor, key: bytes, spread: _Spread, *, device: torch.device) -> None:
    for start in range(0, len(into), _PER_DRAW):
        places = torch.arange(start, min(start + _PER_DRAW, len(into)), device=device, dtype=torch.int64)
        # 24 bits are exact in float32, and so is the step to [-1, 1): only the last line rounds
        signed = (_mixed(places, key) >> 8).to(torch.float32) * 2.0**-23 - 1.0
        into[start : start + _PER_DRAW] = (signed * spread.half_width + spread.centre).to(into.dtype)


def _mixed(places: Tensor, key: bytes) -> Tensor:
    """32-bit words that look random, in int64: two rounds of xor-shift and multiply for each half of the key."""
    words = places
    for start in (0, 4):
        words = words ^ int.from_bytes(key[start : start + 4], "little")
        for multiplier in _MULTIPLIERS:
            words = words ^ (words >> 16)
            words = (words * multiplier) & _WORD
        words = words ^ (words >> 15)
    return words
