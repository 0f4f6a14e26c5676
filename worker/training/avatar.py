"""`python -m worker.training.avatar`: trains the networks of the preset `avatar` from nothing but a corpus of speech.

Knows the options. The corpus is made by `python -m worker.training.corpus`, where espeak-ng is; faces are drawn on the
way. Called again with the same directory it goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from worker.training.backstage import processes
from worker.training.course import Course, OtherCourse, Place
from worker.training.journal import plot
from worker.training.phase_run import TrainingBroken
from worker.training.plan import FULL, TINY
from worker.training.speech import CorpusUnreadable, read_corpus

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when there are weights, 1 when the training broke, 2 for wrong inputs."""
    asked = _options().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_float32_matmul_precision("high")
    plan = TINY if asked.tiny else FULL
    if asked.minutes is not None:
        plan = plan.lasting(asked.minutes)
    place = Place(directory=asked.out, device=torch.device(asked.device))
    try:
        with processes(asked.speech, count=asked.processes) as makers:
            weights = Course(plan, read_corpus(asked.speech), place, seed=asked.seed).run(makers)
    except (CorpusUnreadable, OtherCourse) as error:
        log.error("%s", error)
        return 2
    except TrainingBroken as error:
        log.error("%s", error)
        return 1
    try:
        plot(place.journal, asked.out / "losses.png")
    except ImportError:
        log.info("no curves were drawn: there is no matplotlib")
    log.info("%s, %.1f MB", weights, weights.stat().st_size / 1e6)
    return 0


def _options() -> argparse.ArgumentParser:
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    options = argparse.ArgumentParser(prog="python -m worker.training.avatar", description=__doc__)
    options.add_argument("--speech", type=Path, required=True, help="a corpus of worker.training.corpus")
    options.add_argument("--out", type=Path, required=True, help="directory of weights, state and log")
    options.add_argument("--minutes", type=float, help=f"of all phases together (default: {FULL.minutes:g})")
    options.add_argument(
        "--tiny", action="store_true", help="a few steps of everything, within a minute on a processor"
    )
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--device", default=usual, help=f"default: {usual}")
    options.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 2), help="that make examples")
    return options


if __name__ == "__main__":
    sys.exit(main())
