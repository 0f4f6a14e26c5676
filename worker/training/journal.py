"""What a training says of itself: a line for every so many steps, and curves of its losses.

Knows names and numbers, and the file they go to.
"""

from __future__ import annotations

import json
import logging
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from worker.training.plan import Phase

log = logging.getLogger(__name__)

_EVERY_S = 5.0


class Journal:
    """Lines of JSON: the phase, its step, its seconds, and the mean of each figure since the line before."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._sums: dict[str, float] = defaultdict(float)
        self._count = 0
        self._said_at = -_EVERY_S
        self._phase: Phase | None = None

    def note(self, phase: Phase, *, step: int, seconds: float, figures: Mapping[str, float]) -> None:
        """Figures of one step."""
        if phase is not self._phase:
            self._sums.clear()
            self._phase, self._count, self._said_at = phase, 0, -_EVERY_S
        for name, figure in figures.items():
            self._sums[name] += figure
        self._count += 1
        if time.monotonic() - self._said_at < _EVERY_S:
            return
        means = {name: total / self._count for name, total in self._sums.items()}
        with self._file.open("a") as lines:
            lines.write(json.dumps({"phase": phase, "step": step, "seconds": round(seconds, 2), **means}) + "\n")
        log.info("%s %d, %.0f s: %s", phase, step, seconds, " ".join(f"{n} {m:.4f}" for n, m in means.items()))
        self._sums.clear()
        self._count, self._said_at = 0, time.monotonic()


def read_curves(file: Path) -> dict[tuple[str, str], tuple[list[float], list[float]]]:
    """(phase, figure) to seconds and values."""
    curves: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    for text in file.read_text().splitlines():
        line = json.loads(text)
        phase, seconds = line.pop("phase"), line.pop("seconds")
        del line["step"]
        for name, value in line.items():
            at, values = curves.setdefault((phase, name), ([], []))
            at.append(seconds)
            values.append(value)
    return curves


def plot(journal: Path, picture: Path) -> None:
    """A panel for each phase, with all its figures. Raises ImportError where there is no matplotlib."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    curves = read_curves(journal)
    phases = [phase for phase in Phase if any(phase == of for of, _ in curves)]
    figure, panels = pyplot.subplots(1, len(phases), figsize=(4 * len(phases), 3), squeeze=False)
    for panel, phase in zip(panels[0], phases, strict=True):
        for (of, name), (seconds, values) in curves.items():
            if of == phase:
                panel.plot(seconds, values, label=name)
        panel.set(title=str(phase), xlabel="seconds", yscale="log")
        panel.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(picture, dpi=100)
    pyplot.close(figure)
