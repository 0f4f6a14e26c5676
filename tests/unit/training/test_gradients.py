"""Gradients of a lesson: of the numbers of each step, whichever way a step is played."""

import torch
from torch import nn

from worker.pipeline.dit.recording import DirectPlayer
from worker.training.gradients import Examples, Gradients, Losses


class _Lesson:
    """Examples are views of one table, as those of a real lesson may be."""

    def __init__(self, network: nn.Linear) -> None:
        self.table = torch.arange(12.0).view(6, 2)
        self._network = network

    def examples(self, step: int) -> Examples:
        return Examples(0, {"rows": self.table[step : step + 2]})

    def losses(self, examples: Examples) -> Losses:
        total = self._network(examples.tensors["rows"]).sum()
        return Losses(total, {"total": total})


def test_each_step_has_the_gradient_of_its_own_examples_alone() -> None:
    network = nn.Linear(2, 1)
    lesson = _Lesson(network)
    table = lesson.table.clone()
    gradients = Gradients(lesson, network, DirectPlayer())
    for step in (0, 3, 1):
        names, figures = gradients.of_step(step)
        rows = table[step : step + 2]
        assert names == ("total",)
        assert torch.allclose(figures, network(rows).sum())
        assert torch.equal(network.weight.grad, rows.sum(0, keepdim=True))
    assert torch.equal(lesson.table, table)
