"""The gradient of one step after the other: computed, or on a GPU recorded once for each shape and then replayed.

Knows tensors and keys, not what is learned. A step of these small networks is ten thousand launches of microseconds
each, which no processor asks for as fast as a GPU works them off; a recording (a CUDA graph) asks once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from worker.pipeline.dit.recording import DirectPlayer, GraphPlayer, Player
from worker.pipeline.graph_pool import GraphPool


@dataclass(frozen=True)
class Examples:
    """What one step learns from."""

    key: int
    """Examples of the same one have the same shapes, and are computed with alike."""
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Losses:
    """What is to become small, and figures worth a line."""

    total: Tensor
    figures: Mapping[str, Tensor]


class Lesson(Protocol):
    """Something to learn."""

    def examples(self, step: int) -> Examples:
        """Those of this step; the same in every run of the same seed. Everything that chance decides is in them."""
        ...

    def losses(self, examples: Examples) -> Losses:
        """On the device alone: reads nothing back, copies nothing there, and does the same for every `examples` of a
        key but for the numbers in them."""
        ...


def player_for(device: torch.device) -> Player:
    """Recordings where there are CUDA graphs."""
    return GraphPlayer(GraphPool(device)) if device.type == "cuda" else DirectPlayer()


class Gradients:
    """Of the losses of a lesson by the parameters of a network, in the `grad` of each."""

    def __init__(self, lesson: Lesson, network: nn.Module, player: Player) -> None:
        self._lesson = lesson
        self._player = player
        self._gradients: list[Tensor] = []
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
            self._gradients.append(parameter.grad)
        self._held: dict[int, Examples] = {}
        self._figures: dict[int, tuple[tuple[str, ...], Tensor]] = {}

    def of_step(self, step: int) -> tuple[tuple[str, ...], Tensor]:
        """Names and values of the figures; the values are overwritten by a later step."""
        given = self._lesson.examples(step)
        held = self._held.get(given.key)
        if held is None:
            own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in given.tensors.items()}
            held = self._held[given.key] = Examples(given.key, own)
        for name, tensor in given.tensors.items():
            held.tensors[name].copy_(tensor)
        self._player.play(given.key, lambda: self._compute(held))
        return self._figures[given.key]

    def _compute(self, held: Examples) -> None:
        torch._foreach_zero_(self._gradients)
        losses = self._lesson.losses(held)
        losses.total.backward()  # type: ignore[no-untyped-call]
        made = torch.stack([figure.detach().float() for figure in losses.figures.values()])
        if held.key in self._figures:
            self._figures[held.key][1].copy_(made)
        else:
            self._figures[held.key] = tuple(losses.figures), made.clone()
