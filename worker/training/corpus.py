"""`python -m worker.training.corpus`: speaks a corpus with espeak-ng and writes it to one file.

Knows the options. An hour of speech takes about 25 seconds of one processor to speak, and 40 MB.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from worker.training.espeak import EspeakUnusable
from worker.training.speaking import SCENE_S, TRAINING, UNHEARD, speak_scene
from worker.training.speech import Utterance, write_corpus

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the file is there, 1 where espeak-ng cannot be used."""
    options = argparse.ArgumentParser(prog="python -m worker.training.corpus", description=__doc__)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--minutes", type=float, default=300.0)
    options.add_argument("--cast", choices=("training", "unheard"), default="training")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="that speak")
    asked = options.parse_args(arguments)
    if asked.minutes <= 0:
        options.error("--minutes has to be more than 0")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    cast = TRAINING if asked.cast == "training" else UNHEARD
    seconds = 60 * asked.minutes
    scenes = math.ceil(seconds / SCENE_S)
    speak = partial(speak_scene, cast, seconds=seconds / scenes, seed=asked.seed)
    utterances: list[Utterance] = []
    try:
        with ProcessPoolExecutor(asked.processes, get_context("forkserver")) as speakers:
            for number, scene in enumerate(speakers.map(speak, range(scenes)), start=1):
                utterances.extend(scene)
                if number * 10 // scenes > (number - 1) * 10 // scenes:
                    log.info("%.0f of %.0f minutes spoken", asked.minutes * number / scenes, asked.minutes)
    except EspeakUnusable as error:
        log.error("%s", error)
        return 1
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    write_corpus(asked.out, utterances)
    log.info("%s: %d utterances, %.1f MB", asked.out, len(utterances), asked.out.stat().st_size / 1e6)
    return 0


if __name__ == "__main__":
    sys.exit(main())
