"""Why a group failed, in words: the cause before its echoes.

A rank that is killed makes the others fail in their collectives within milliseconds, so whoever is heard first is
seldom to blame. A process that holds a GPU takes its time to die, and says only then how it ended.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait

from worker.group.messages import Failed, FromRank
from worker.group.rank_process import RankProcess

SHORTEST_S = 0.2
LONGEST_S = 1.5
"""Part of the five seconds within which a failed group has to be down."""
_ROUND_S = 0.05


def explain(ranks: Sequence[RankProcess], rank: int, failure: Failed | None = None) -> tuple[str, str]:
    """The code of `GroupFailed` and its message: which ranks ended and how, and what the others said of it.

    `rank` gave the first sign: its last word is `failure`, or its pipe ended without one.
    """
    failures = {} if failure is None else {rank: failure}
    gone = {rank} if failure is None else set()
    started = time.monotonic()
    while (waited := time.monotonic() - started) < LONGEST_S:
        if waited > SHORTEST_S and all(ranks[number].ending() is not None for number in gone):
            break
        _listen(ranks, failures, gone)
    died = [f"rank {number} {ranks[number].ending() or 'closed its pipe'}" for number in sorted(gone)]
    words = "; ".join([*died, *(f"rank {number} failed: {said.message}" for number, said in failures.items())])
    if any(said.code == "out_of_memory" for said in failures.values()):
        return "out_of_memory", words
    return "rank_died" if died else "rank_failed", words


def _listen(ranks: Sequence[RankProcess], failures: dict[int, Failed], gone: set[int]) -> None:
    """For a moment: last words go to `failures`, ranks whose pipe ends without one to `gone`."""
    by_pipe = {rank.pipe: rank.rank for rank in ranks if rank.rank not in gone and rank.rank not in failures}
    if not by_pipe:
        time.sleep(_ROUND_S)
        return
    for pipe in wait(list(by_pipe), timeout=_ROUND_S):
        assert isinstance(pipe, Connection)
        try:
            message: FromRank = pipe.recv()
        except (EOFError, ConnectionResetError):
            gone.add(by_pipe[pipe])
            continue
        if isinstance(message, Failed):
            failures[by_pipe[pipe]] = message
