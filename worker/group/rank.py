"""One rank: a process that holds its part of the network and draws videos when it is told to.

Knows its pipe to the group that started it, and how to join the other ranks. What it draws with is a `Renderer`; the
real one is in `renderer.py` and is imported late, because torch takes ten seconds and death of the parent must not wait
for that. An idle rank waits on its pipe, never inside a collective.

The main thread draws. Files of finished drawings are ended in threads of their own, and what goes wrong there is told
of that video alone.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Protocol

from worker.group.errors import GroupRefused, RenderCanceled, RenderInterrupted, RenderRefused
from worker.group.messages import (
    Cancel,
    DeviceReport,
    Draw,
    Drawn,
    Exit,
    Failed,
    Finished,
    FromRank,
    Idle,
    Interrupted,
    Launch,
    Moved,
    Ping,
    Ready,
    Refused,
    Stopped,
    ToRank,
    Unstartable,
    Upcoming,
    Worked,
)
from worker.group.request import OnProgress, RenderProgress, RenderRequest, RenderResult, ShouldCancel
from worker.pipeline.dit_clock import OnDiTWork
from worker.processes import die_with_parent

LAUNCH_TIMEOUT_S = 30.0
TRACEBACK_CHARACTERS = 8_000

log = logging.getLogger(__name__)


class Finishing(Protocol):
    """The file of a video that is drawn."""

    def finish(self, *, on_progress: OnProgress) -> RenderResult:
        """Wait for the whole file. Raises `RenderInterrupted`, and `RenderCanceled` after `abort`."""

    def abort(self) -> None:
        """From another thread: leave it, and leave no file."""


class Renderer(Protocol):
    """What a rank draws with. Every rank is told to draw the same at the same time; the rest is rank 0's alone."""

    def prepare(self, request: RenderRequest) -> None:
        """Begin to make ready in a thread what `draw` will need. What goes wrong is said by `draw`."""

    def forget(self, name: str) -> None:
        """What was prepared under this name, if anything, will not be drawn."""

    def draw(
        self, draw: Draw, *, on_progress: OnProgress, on_dit: OnDiTWork, should_stop: ShouldCancel
    ) -> Finishing | None:
        """Draw all frames. The file is what rank 0 returns; the others return None.

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
    with Connection(descriptor) as connection:
        pipe = _Pipe(connection)
        try:
            return _live(pipe, open_renderer)
        except _GroupGone:
            return 0
        except BaseException as error:  # noqa: BLE001 - the last word of this process, told to the group
            _say_last_word(pipe, rank, error)
            return 1


def _live(pipe: _Pipe, open_renderer: OpenRenderer) -> int:
    if not pipe.has_message(within_s=LAUNCH_TIMEOUT_S):
        raise TimeoutError(f"not told what to load within {LAUNCH_TIMEOUT_S:g} s")
    launch = pipe.receive()
    assert isinstance(launch, Launch)
    try:
        renderer = open_renderer(launch)
    except GroupRefused as refused:
        pipe.send(Unstartable(refused.code, refused.message))
        return 1
    pipe.send(Ready(rank=launch.rank, pid=os.getpid(), device=renderer.device()))
    rank = _Rank(launch.rank, renderer, pipe)
    while True:
        message = pipe.receive()  # without a limit: idle for days is in order, and the pipe ends with the group
        match message:
            case Exit():
                return 0
            case Draw():
                rank.draw(message)
                rank.say_idle()
            case Ping():
                rank.say_idle()
            case Upcoming() | Cancel():
                rank.heed(message)


class _Rank:
    """What this rank draws, prepares and finishes."""

    def __init__(self, rank: int, renderer: Renderer, pipe: _Pipe) -> None:
        self._rank = rank
        self._renderer = renderer
        self._pipe = pipe
        self._finishing: dict[str, Finishing] = {}

    def draw(self, draw: Draw) -> None:
        """Says how the drawing ended, when this rank is fit for the next one. The group listens to rank 0 only."""
        name = draw.request.name
        canceled = False

        def should_stop() -> bool:
            nonlocal canceled
            while self._pipe.has_message():
                message = self._pipe.receive()
                if isinstance(message, Cancel) and message.name == name:
                    canceled = True
                elif isinstance(message, Upcoming | Cancel):
                    self.heed(message)
            return canceled

        try:
            finishing = self._renderer.draw(
                draw,
                on_progress=lambda progress: self._pipe.send(Moved(name, progress)),
                on_dit=lambda seconds: self._pipe.send(Worked(self._rank, seconds)),
                should_stop=should_stop,
            )
        except RenderCanceled:
            self._pipe.send(Stopped(name))
        except RenderRefused as refused:
            self._pipe.send(Refused(name, refused.code, refused.message))
        except RenderInterrupted as interrupted:
            self._pipe.send(Interrupted(name, interrupted.code, interrupted.message))
        else:
            if finishing is not None:
                self._finishing[name] = finishing
                self._pipe.send(Drawn(name))
                threading.Thread(
                    target=self._finish, args=(name, finishing), name=f"finish {name}", daemon=True
                ).start()

    def heed(self, message: Upcoming | Cancel) -> None:
        """What may be said at any time, of a video that is not drawn now."""
        match message:
            case Upcoming():
                self._renderer.prepare(message.request)
            case Cancel():  # it may also come after all has ended
                self._renderer.forget(message.name)
                finishing = self._finishing.get(message.name)
                if finishing is not None:
                    finishing.abort()

    def say_idle(self) -> None:
        self._pipe.send(Idle(rank=self._rank, device=self._renderer.device()))

    def _finish(self, name: str, finishing: Finishing) -> None:
        """In a thread of its own: says how the file ended."""

        def on_progress(progress: RenderProgress) -> None:
            self._pipe.send(Moved(name, progress))

        outcome: FromRank
        try:
            outcome = Finished(name, finishing.finish(on_progress=on_progress))
        except RenderCanceled:
            outcome = Stopped(name)
        except RenderInterrupted as interrupted:
            outcome = Interrupted(name, interrupted.code, interrupted.message)
        except Exception as error:
            log.exception("the file of %s was not finished", name)
            outcome = Interrupted(name, "internal_error", f"{type(error).__name__} while the file was finished.")
        self._finishing.pop(name, None)
        with suppress(OSError):  # the group is gone, and with it whoever waited for this
            self._pipe.send(outcome)


class _Pipe:
    """This rank's end of the pipe to its group: any thread may speak, the main thread listens."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._speaking = threading.Lock()

    def send(self, message: FromRank) -> None:
        with self._speaking:
            self._connection.send(message)

    def has_message(self, *, within_s: float = 0.0) -> bool:
        return self._connection.poll(within_s)

    def receive(self) -> ToRank:
        try:
            message: ToRank = self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise _GroupGone from None
        return message


class _GroupGone(Exception):
    """The group closed its pipe or died."""


def _say_last_word(pipe: _Pipe, rank: int, error: BaseException) -> None:
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
