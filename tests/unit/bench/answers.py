"""Measurements for the tests of how measurements are run: each ends in another way."""

import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

from worker.bench.ranks import CannotMeasure, Place, Say

TOO_LONG_S = 300.0


@dataclass(frozen=True)
class Job:
    ending: str
    pids: Path
    """Every rank leaves a file with its number here."""


@dataclass(frozen=True)
class Answer:
    rank: int
    world_size: int
    device: str
    seconds_since_start: float


def measure(job: Job, place: Place, say: Say) -> Answer:
    import time

    (job.pids / str(os.getpid())).touch()
    say(f"{job.ending} on {place.device}")
    last = place.rank == place.world_size - 1
    match job.ending:
        case "impossible" if last:
            raise CannotMeasure("there is no such thing here")
        case "failure" if last:
            raise ZeroDivisionError("what the rank was doing")
        case "death" if last:
            os.kill(os.getpid(), signal.SIGKILL)
        case "impossible" | "failure" | "death" | "silence":
            threading.Event().wait(TOO_LONG_S)
    return Answer(place.rank, place.world_size, place.device, time.time() - place.started_at)
