"""`python -m worker.training.corpus`: speaks a corpus with espeak-ng and writes it to one file.

Knows the options. Half an hour of speech takes 25 seconds to speak, and 18 MB.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from worker.training.espeak import EspeakUnusable
from worker.training.speaking import TRAINING, UNHEARD, speak
from worker.training.speech import write_corpus

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the file is there, 1 where espeak-ng cannot be used."""
    options = argparse.ArgumentParser(prog="python -m worker.training.corpus", description=__doc__)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--minutes", type=float, default=48.0)
    options.add_argument("--cast", choices=("training", "unheard"), default="training")
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    cast = TRAINING if asked.cast == "training" else UNHEARD
    try:
        utterances = list(speak(cast, seconds=60 * asked.minutes, seed=asked.seed))
    except EspeakUnusable as error:
        log.error("%s", error)
        return 1
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    write_corpus(asked.out, utterances)
    log.info("%s: %d utterances, %.1f MB", asked.out, len(utterances), asked.out.stat().st_size / 1e6)
    return 0


if __name__ == "__main__":
    sys.exit(main())
