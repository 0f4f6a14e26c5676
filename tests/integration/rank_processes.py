"""Real processes that form one gloo group and run what a test asks of them.

Knows processes and pipes only. Every wait has a deadline; a process that does not answer is ended, and the test fails.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

START_SECONDS = 100
ANSWER_SECONDS = 60


class RankFailed(Exception):
    """What a rank raised, with its traceback."""


class RankProcesses:
    """`size` ranks that wait for work."""

    def __init__(self, processes: list[BaseProcess], pipes: list[Connection]) -> None:
        self._processes = processes
        self._pipes = pipes

    def run(self, work: Callable[..., Any], *args: Any) -> list[Any]:
        """`work(rank, world_size, *args)` on every rank; the answers by rank. Raises `RankFailed` if one raised."""
        for pipe in self._pipes:
            pipe.send((work, args))
        answers = [self._answer(rank) for rank in range(len(self._pipes))]
        failed = [f"rank {rank}: {text}" for rank, (text, _) in enumerate(answers) if text is not None]
        if failed:
            raise RankFailed("\n".join(failed))
        return [answer for _, answer in answers]

    def end_abruptly(self, rank: int) -> None:
        """Kill one rank, as a crash would."""
        self._processes[rank].kill()
        self._processes[rank].join(10)

    def send(self, work: Callable[..., Any], *args: Any, ranks: range) -> None:
        """Start `work` on some ranks without waiting for it."""
        for rank in ranks:
            self._pipes[rank].send((work, args))

    def answer(self, rank: int) -> Any:
        """What a rank came to. Raises `RankFailed`."""
        text, answer = self._answer(rank)
        if text is not None:
            raise RankFailed(f"rank {rank}: {text}")
        return answer

    def _answer(self, rank: int) -> tuple[str | None, Any]:
        if not self._pipes[rank].poll(ANSWER_SECONDS):
            raise RankFailed(f"rank {rank} did not answer within {ANSWER_SECONDS} s")
        answer: tuple[str | None, Any] = self._pipes[rank].recv()
        return answer


@contextmanager
def rank_processes(size: int) -> Iterator[RankProcesses]:
    """Ranks of one gloo group, in processes of their own, until the context is left."""
    context = multiprocessing.get_context("forkserver")  # torch is imported once, in the server that forks the ranks
    context.set_forkserver_preload(["worker.pipeline.encoders"])
    with tempfile.TemporaryDirectory() as directory:
        pipes, processes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(rank, size, str(Path(directory) / "store"), theirs), daemon=True
            )
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        try:
            for rank, pipe in enumerate(pipes):
                if not pipe.poll(START_SECONDS):
                    raise RankFailed(f"rank {rank} did not start within {START_SECONDS} s")
                pipe.recv()
            yield RankProcesses(processes, pipes)
        finally:
            for process, pipe in zip(processes, pipes, strict=True):
                pipe.close()  # a rank ends when its pipe does
                process.join(5)
                if process.is_alive():
                    process.kill()
                    process.join()


def _serve(rank: int, size: int, store: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=30)
    )
    pipe.send("ready")
    while True:
        try:
            work, args = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((None, work(rank, size, *args)))
        except Exception:  # noqa: BLE001 - handed to the test with its traceback
            pipe.send((traceback.format_exc(), None))
