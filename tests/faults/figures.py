"""Detection, recovery and work lost, measured by the tests of the suite as they run, and the table of them.

`python -m tests.faults.figures [--clock 1.0]` runs the deterministic tests and prints a Markdown table. At 1.0 the
leases are those of production and the run takes half an hour or so; at 0.1, the tests' own clock, times are a tenth.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.armed import CLOCK

if TYPE_CHECKING:
    from tests.faults.installation import Installation

FILE = "FAULTS_FIGURES"


@dataclass(frozen=True)
class Figure:
    """Seconds from the fault on; None where it does not apply."""

    fault: str
    noticed_s: float | None
    goes_on_s: float | None
    repeated_s: float | None
    """Work of the attempt that was lost."""


def record(fault: str, *, noticed_s: float | None, goes_on_s: float | None, repeated_s: float | None = 0.0) -> None:
    """Keep a figure, if anybody wants them."""
    if FILE in os.environ:
        with Path(os.environ[FILE]).open("a") as file:
            file.write(json.dumps(asdict(Figure(fault, noticed_s, goes_on_s, repeated_s))) + "\n")


def record_lost_attempt(fault: str, installation: Installation, job_id: str, *, struck_at: float) -> None:
    """Of a job whose first attempt was hit at `struck_at` (`time.time`) and whose second one went on."""
    first, second = installation.attempts(job_id)[:2]
    assert first.ended_at is not None
    record(
        fault,
        noticed_s=first.ended_at.timestamp() - struck_at,
        goes_on_s=second.started_at.timestamp() - struck_at,
        repeated_s=struck_at - first.started_at.timestamp(),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="measure detection, recovery and lost work of each fault")
    parser.add_argument("--clock", type=float, default=0.1, help="fraction of the production's times")
    parser.add_argument("pytest", nargs="*", default=["tests/faults"], help="which tests")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "figures"
        file.touch()
        ended = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", *options.pytest],
            env={**os.environ, FILE: str(file), CLOCK: str(options.clock)},
        )
        figures = [Figure(**json.loads(line)) for line in file.read_text().splitlines()]
    print(table(figures))
    return ended.returncode


def table(figures: list[Figure]) -> str:
    lines = ["| fault | noticed after | work goes on after | work repeated |", "|---|---|---|---|"]
    for figure in figures:
        cells = (_words(figure.noticed_s), _words(figure.goes_on_s), _words(figure.repeated_s))
        lines.append(f"| {figure.fault} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _words(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
