"""A rank of a group that also notes what it is doing, some hundred times a second, for `tests.bench.outside`.

A thread looks at the stacks of all others, so nothing of the rank is changed or wrapped. What counts is in which files
a stack lies. A moment belongs to the network when any thread is in it.
"""

import json
import os
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import FrameType

from worker.group.rank import main

PERIOD_S = 0.003
DIRECTORY = "REALVIDEO_BENCH_SAMPLES"
"""The variable of the environment that names where each rank writes `RANK.json` when it ends."""

_WORKER = str(Path(__file__).parents[2] / "worker") + os.sep
_RENDERING = {"group/preparation.py", "group/renderer.py", "group/finishing.py"}
_STARTING = ("group/renderer.py", "open_pipeline")


class Doing(StrEnum):
    """When threads do several things, the moment belongs to the first of these."""

    DIT = "DiT"
    VAE = "VAE"
    ENCODERS = "encoders"
    WAITING = "waiting for another rank"
    WRITING = "writing the video"
    OTHER = "other"


NETWORK = (Doing.DIT, Doing.VAE, Doing.ENCODERS)
_ROOMS = {
    "pipeline/dit/": Doing.DIT,
    "pipeline/denoiser": Doing.DIT,
    "pipeline/vae": Doing.VAE,
    "pipeline/text_encoder": Doing.ENCODERS,
    "pipeline/audio_encoder": Doing.ENCODERS,
    "pipeline/exchange": Doing.WAITING,
    "media/": Doing.WRITING,
}
"""By the beginning of a file's name."""


@dataclass
class Samples:
    """Moments by what the rank did, and those outside the network by the worker's innermost function."""

    doing: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)


def sample(samples: Samples, ended: threading.Event) -> None:
    me = threading.get_ident()
    while not ended.wait(PERIOD_S):
        stacks = [_worker_frames(top) for thread, top in sys._current_frames().items() if thread != me]
        rendering = [
            stack for stack in stacks if _STARTING not in stack and not _RENDERING.isdisjoint(file for file, _ in stack)
        ]
        if not rendering:
            continue
        doing, place = min((_what(stack) for stack in rendering), key=lambda seen: list(Doing).index(seen[0]))
        samples.doing[doing] += 1
        if doing not in NETWORK:
            samples.places[place] += 1


def _worker_frames(top: FrameType) -> list[tuple[str, str]]:
    """File and function of the worker's frames of one stack, innermost first."""
    found = []
    frame: FrameType | None = top
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(_WORKER):
            found.append((code.co_filename.removeprefix(_WORKER), code.co_name))
        frame = frame.f_back
    return found


def _what(stack: list[tuple[str, str]]) -> tuple[Doing, str]:
    """What the outermost room of a stack is for, and its innermost function."""
    seen = [doing for file, _ in stack for room, doing in _ROOMS.items() if file.startswith(room)]
    return (seen[-1] if seen else Doing.OTHER), " ".join(stack[0])


def run(arguments: list[str]) -> int:
    from worker.group.renderer import open_pipeline

    samples, ended = Samples(), threading.Event()
    sampler = threading.Thread(target=sample, args=(samples, ended), name="samples", daemon=True)
    sampler.start()
    try:
        return main(arguments, open_renderer=open_pipeline)
    finally:
        ended.set()
        sampler.join(timeout=1.0)
        out = Path(os.environ[DIRECTORY]) / f"{arguments[2]}.json"
        out.write_text(json.dumps(vars(samples)))


if __name__ == "__main__":
    os._exit(run(sys.argv[1:]))
