"""One phase of a training: steps until its time is over, with a learning rate that follows the time.

Knows clocks, optimisers and averages of weights; not what is learned. A phase that was interrupted goes on where its
last saved state was, with the time that was left then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from worker.pipeline.dit.recording import Player
from worker.training.gradients import Gradients, Lesson
from worker.training.journal import Journal
from worker.training.plan import Phase, Share

_WARM_UP = 0.03
"""Share of a phase in which the rate rises; then it falls along a cosine to a fiftieth."""
_LAST_RATE = 0.02
_CLIP = 1.0
_AVERAGED_OVER = 0.002
"""What a step adds to the average of the weights; more while there are few steps."""
_LOOKED_AT_EVERY = 17
"""Steps between two looks at the figures, each of which waits for the device. Odd, as sizes of picture take turns."""


class TrainingBroken(RuntimeError):
    """A gradient is no number: nothing useful can follow."""


class PhaseRun:
    """Trains `network` in place; at the end it has the average of its weights over the last steps."""

    def __init__(self, phase: Phase, share: Share, network: nn.Module) -> None:
        self._phase = phase
        self._share = share
        self._network = network.requires_grad_(True)
        parameters = list(network.parameters())
        decayed = [p for p in parameters if p.ndim > 1]
        others = [p for p in parameters if p.ndim <= 1]
        self._optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
            lr=share.rate,
            betas=(0.9, 0.98),
            fused=parameters[0].is_cuda,
        )
        self._average = [parameter.detach().clone() for parameter in parameters]
        self.step = 0
        self.seconds = 0.0

    def steps(
        self, lesson: Lesson, *, player: Player, journal: Journal, save: Callable[[], None], save_every_s: float
    ) -> None:
        """Until time or steps are over. Raises `TrainingBroken`."""
        gradients = Gradients(lesson, self._network, player)
        saved_at = time.monotonic()
        for began in self._clock():
            for group in self._optimiser.param_groups:
                group["lr"] = self._share.rate * self._rate()
            names, figures = gradients.of_step(self.step)
            norm = nn.utils.clip_grad_norm_(self._network.parameters(), _CLIP)
            self._optimiser.step()
            self._follow()
            if self.step % _LOOKED_AT_EVERY == 0:
                seen = dict(zip(names, figures.tolist(), strict=True))
                journal.note(self._phase, step=self.step + 1, seconds=self.seconds, figures=seen)
                self._check(norm)
            self.step += 1
            self.seconds += time.monotonic() - began
            if time.monotonic() - saved_at > save_every_s:
                self._check(norm)
                save()
                saved_at = time.monotonic()
        with torch.no_grad():
            for parameter, average in zip(self._network.parameters(), self._average, strict=True):
                parameter.copy_(average)

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs."""
        return {
            "network": self._network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "average": self._average,
            "step": self.step,
            "seconds": self.seconds,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        for own, kept in zip(self._average, state["average"], strict=True):
            own.copy_(kept)
        self.step, self.seconds = state["step"], state["seconds"]

    def _check(self, norm: Tensor) -> None:
        if not math.isfinite(float(norm)):
            raise TrainingBroken(f"{self._phase}, step {self.step}: the gradient is {float(norm)}")

    def _clock(self) -> Iterator[float]:
        while self.seconds < 60 * self._share.minutes and self.step < self._share.most_steps:
            yield time.monotonic()

    def _rate(self) -> float:
        done = min(1.0, max(self.seconds / (60 * self._share.minutes), self.step / self._share.most_steps))
        if done < _WARM_UP:
            return max(done / _WARM_UP, 0.02)
        along = (done - _WARM_UP) / (1 - _WARM_UP)
        return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * along))

    @torch.no_grad()
    def _follow(self) -> None:
        weight = max(_AVERAGED_OVER, 1 / (self.step + 2))
        torch._foreach_lerp_(self._average, [p.detach() for p in self._network.parameters()], weight)
