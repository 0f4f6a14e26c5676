"""Speech that nothing was trained on, as the tests and the bench use it."""

from functools import cache
from pathlib import Path

from worker.training.speech import Utterance, read_corpus

UNHEARD = Path(__file__).parents[2] / "fixtures" / "avatar" / "unheard.speech"


@cache
def unheard() -> tuple[Utterance, ...]:
    return read_corpus(UNHEARD)
