"""Examples made by other processes while a GPU learns. Knows executors, and the corpus that each of them has open.

Making an example is small work in Python, of which threads of one process do one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Generic, TypeVar

from worker.training.speech import Utterance, read_corpus

Made = TypeVar("Made")

LONGEST_S = 180.0
"""For one example, the start of the processes included."""

_corpus: tuple[Utterance, ...] = ()


def processes(speech: Path, *, count: int) -> ProcessPoolExecutor:
    """So many processes, each with the corpus."""
    return ProcessPoolExecutor(count, get_context("forkserver"), initializer=_open, initargs=(speech,))


def enter(utterances: Sequence[Utterance]) -> None:
    """The corpus of this process from now on."""
    global _corpus
    _corpus = tuple(utterances)


class UnderWay(Generic[Made]):
    """What `make(utterances, number)` gives for some numbers, in their order; all of it is under way at once."""

    def __init__(
        self, executor: Executor, make: Callable[[Sequence[Utterance], int], Made], numbers: Iterable[int]
    ) -> None:
        """`make` is pickled."""
        self._futures: list[Future[Made]] = [executor.submit(_make, make, number) for number in numbers]

    def __iter__(self) -> Iterator[Made]:
        """Once. Raises whatever `make` raised, and `TimeoutError`."""
        self._futures.reverse()
        while self._futures:
            yield self._futures.pop().result(timeout=LONGEST_S)


def _open(speech: Path) -> None:
    enter(read_corpus(speech))


def _make(make: Callable[[Sequence[Utterance], int], Made], number: int) -> Made:
    return make(_corpus, number)
