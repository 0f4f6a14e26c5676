"""Runs one measurement in fresh processes, one for each rank, and brings home what they found.

Knows processes and pipes. Each measurement has processes of its own, so that none finds memory, compiled code or a
broken device left by another, and so that the time from the start of a process is a true one.
"""

from __future__ import annotations

import importlib
import logging
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")

SILENCE_DEADLINE_S = 600.0
END_TIMEOUT_S = 30.0
RENDEZVOUS_TIMEOUT_S = 300.0

Say = Callable[[str], None]
"""One line about what is going on, for a person who waits."""


@dataclass(frozen=True)
class Place:
    """One rank's place in its world."""

    rank: int
    world_size: int
    device: str
    """As PyTorch names it: `cpu`, `cuda:1`."""
    threads: int | None
    """None leaves it to PyTorch and its environment variables."""
    started_at: float
    """Just before the process was started, in seconds since 1970."""
    rendezvous: Path


Measure = Callable[[object, Place, Say], object]


class CannotMeasure(Exception):
    """The measurement is impossible here: what was asked for does not exist on this machine."""


class RankBroke(Exception):
    """A rank ended without a result."""


@dataclass(frozen=True)
class _Said:
    line: str


@dataclass(frozen=True)
class _Done:
    found: object


@dataclass(frozen=True)
class _Impossible:
    reason: str


@dataclass(frozen=True)
class _Broke:
    trace: str


def in_ranks(
    module: str,
    job: object,
    *,
    finds: type[Found],
    devices: Sequence[str],
    threads: int | None,
    say: Say,
    silence_deadline_s: float = SILENCE_DEADLINE_S,
) -> list[Found]:
    """What `measure(job, place, say)` of a module returned on each rank, a `finds`.

    The module is given by name, since it is imported there and not here: this process loads no network.
    Raises `CannotMeasure` as a rank did, and `RankBroke` when one failed, died, or said nothing for too long.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="realvideo-bench-") as directory:
        processes: list[BaseProcess] = []
        pipes: list[Connection] = []
        try:
            for rank, device in enumerate(devices):
                ours, theirs = context.Pipe(duplex=False)
                place = Place(
                    rank=rank,
                    world_size=len(devices),
                    device=device,
                    threads=threads,
                    started_at=time.time(),
                    rendezvous=Path(directory) / "store",
                )
                process: BaseProcess = context.Process(target=_in_rank, args=(module, job, place, theirs), daemon=False)
                process.start()
                theirs.close()
                processes.append(process)
                pipes.append(ours)
            found = _gather(pipes, finds=finds, say=say, silence_deadline_s=silence_deadline_s)
            for process in processes:
                process.join(timeout=END_TIMEOUT_S)
            return found
        finally:
            for process in processes:
                _end(process)
            for pipe in pipes:
                pipe.close()


def _gather(pipes: Sequence[Connection], *, finds: type[Found], say: Say, silence_deadline_s: float) -> list[Found]:
    found: dict[int, Found] = {}
    rank_of: dict[object, int] = {pipe: rank for rank, pipe in enumerate(pipes)}
    broken: list[str] = []
    while len(found) < len(pipes):
        ready = wait([pipe for rank, pipe in enumerate(pipes) if rank not in found], timeout=silence_deadline_s)
        if not ready:
            raise RankBroke(f"no rank said anything for {silence_deadline_s:.0f} s")
        for pipe in ready:
            rank = rank_of[pipe]
            match _receive(pipes[rank]):
                case _Said(line):
                    say(line if len(pipes) == 1 else f"rank {rank}: {line}")
                case _Done(result):
                    assert isinstance(result, finds), f"{type(result)} is not a {finds}"
                    found[rank] = result
                case _Impossible(reason):
                    raise CannotMeasure(reason)
                case _Broke(trace):
                    broken.append(f"rank {rank} failed:\n{trace}")
                case None:
                    broken.append(f"rank {rank} died")
        if broken:
            raise RankBroke(_worst(broken))
    return [found[rank] for rank in range(len(pipes))]


def _receive(pipe: Connection) -> object:
    """None when the other end is gone."""
    try:
        return pipe.recv()
    except (EOFError, ConnectionResetError):
        return None


def _worst(broken: Sequence[str]) -> str:
    """A rank that tells why it failed says more than one that lost it."""
    return max(broken, key=len)


def _end(process: BaseProcess) -> None:
    if process.exitcode is None:
        process.terminate()
        process.join(timeout=END_TIMEOUT_S)
    if process.exitcode is None:
        process.kill()
        process.join(timeout=END_TIMEOUT_S)


def _in_rank(module: str, job: object, place: Place, pipe: Connection) -> None:
    logging.basicConfig(level=logging.INFO, format=f"rank {place.rank}: %(message)s", stream=sys.stderr)
    message: object
    try:
        measure: Measure = importlib.import_module(module).measure
        message = _Done(measure(job, place, lambda line: pipe.send(_Said(line))))
    except CannotMeasure as error:
        message = _Impossible(str(error))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the process that waits for us says it
        message = _Broke("".join(traceback.format_exception(error)))
    with suppress(OSError):  # the bench is gone
        pipe.send(message)
        pipe.close()
    # threads of a library, or of a collective that hangs, must not keep the rank
    os._exit(0 if isinstance(message, _Done) else 1)
