"""One rank: a process that holds its part of the network and renders when it is told to.

Knows its pipe to the group that started it, and how to join the other ranks. What it renders with is a `Renderer`; the
real one is in `renderer.py` and is imported late, because torch takes ten seconds and death of the parent must not wait
for that. An idle rank waits on its pipe, never inside a collective.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Protocol

from worker.group.errors import GroupRefused, RenderCanceled, RenderInterrupted, RenderRefused
from worker.group.messages import (
    Cancel,
    DeviceReport,
    Exit,
    Failed,
    Finished,
    FromRank,
    Idle,
    Interrupted,
    Launch,
    Ping,
    Ready,
    Refused,
    Stopped,
    ToRank,
)
from worker.group.request import OnProgress, RenderRequest, RenderResult, ShouldCancel
from worker.processes import die_with_parent

LAUNCH_TIMEOUT_S = 30.0
TRACEBACK_CHARACTERS = 8_000

log = logging.getLogger(__name__)


class Renderer(Protocol):
    """What a rank renders with. Every rank is given the same request at the same time."""

    def render(
        self, request: RenderRequest, *, on_progress: OnProgress, should_stop: ShouldCancel
    ) -> RenderResult | None:
        """The result on rank 0, None on the others.

        Raises `RenderCanceled`, `RenderRefused` or `RenderInterrupted` when every rank is out of the render and fit for
        the next; anything else is the end of the group.
        """

    def device(self) -> DeviceReport: ...


OpenRenderer = Callable[[Launch], Renderer]


def main(arguments: list[str], *, open_renderer: OpenRenderer) -> int:
    """The process: `parent-pid pipe-descriptor rank` on the command line, everything else over the pipe."""
    parent, descriptor, rank = (int(argument) for argument in arguments)
    die_with_parent(parent)
    os.set_inheritable(descriptor, False)  # an ffmpeg of ours must not hold the pipe open when we are gone
    faulthandler.enable()
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s rank {rank} %(levelname)s %(message)s")
    with Connection(descriptor) as pipe:
        try:
            return _live(pipe, open_renderer)
        except _GroupGone:
            return 0
        except BaseException as error:  # noqa: BLE001 - the last word of this process, told to the group
            _say_last_word(pipe, rank, error)
            return 1


def _live(pipe: Connection, open_renderer: OpenRenderer) -> int:
    if not pipe.poll(LAUNCH_TIMEOUT_S):
        raise TimeoutError(f"not told what to load within {LAUNCH_TIMEOUT_S:g} s")
    launch = _receive(pipe)
    assert isinstance(launch, Launch)
    try:
        renderer = open_renderer(launch)
    except GroupRefused as refused:
        pipe.send(Refused(refused.code, refused.message))
        return 1
    pipe.send(Ready(rank=launch.rank, pid=os.getpid(), device=renderer.device()))
    while True:
        message = _receive(pipe)  # without a limit: idle for days is in order, and the pipe ends with the group
        match message:
            case RenderRequest():
                outcome = _outcome(renderer, message, pipe)
                if outcome is not None:
                    pipe.send(outcome)
            case Ping():
                pass
            case Cancel():  # it came after the render had ended
                continue
            case Exit():
                return 0
        pipe.send(Idle(rank=launch.rank, device=renderer.device()))


def _outcome(renderer: Renderer, request: RenderRequest, pipe: Connection) -> FromRank | None:
    """How the render ended, when this rank is fit for the next one. The group listens to that of rank 0."""
    canceled = False

    def should_stop() -> bool:
        nonlocal canceled
        while pipe.poll():
            canceled = isinstance(_receive(pipe), Cancel) or canceled
        return canceled

    try:
        result = renderer.render(request, on_progress=pipe.send, should_stop=should_stop)
    except RenderCanceled:
        return Stopped()
    except RenderRefused as refused:
        return Refused(refused.code, refused.message)
    except RenderInterrupted as interrupted:
        return Interrupted(interrupted.code, interrupted.message)
    return None if result is None else Finished(result)


class _GroupGone(Exception):
    """The group closed its pipe or died."""


def _receive(pipe: Connection) -> ToRank:
    try:
        message: ToRank = pipe.recv()
    except (EOFError, ConnectionResetError):
        raise _GroupGone from None
    return message


def _say_last_word(pipe: Connection, rank: int, error: BaseException) -> None:
    text = "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:]
    log.error("rank %d cannot go on\n%s", rank, text)
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    code = "out_of_memory" if out_of_memory else "rank_failed"
    with suppress(OSError):  # the group may be gone as well
        pipe.send(Failed(rank=rank, code=code, message=f"{type(error).__name__}: {error}", traceback=text))


if __name__ == "__main__":
    from worker.group.renderer import open_pipeline

    # os._exit: threads of a collective that hangs must not keep a failed rank alive
    os._exit(main(sys.argv[1:], open_renderer=open_pipeline))
