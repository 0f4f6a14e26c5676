"""The warm group: W rank processes that share one network and draw one video at a time.

Knows processes, pipes and deadlines; nothing of jobs, tensors or sockets. A group lives once: whatever goes wrong in a
rank takes all of it down, and `warm_group.py` launches another. There is no recovery inside a group, because a rank
that missed a collective cannot be brought back into step.

From when the ranks are ready, one thread hears all of them and tells each render what is said of it (`rendering.py`).
That thread alone takes the ranks down.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType

from worker.group.aftermath import explain
from worker.group.errors import GroupFailed, GroupRefused, RenderCanceled, RenderInterrupted, RenderRefused
from worker.group.messages import (
    Cancel,
    DeviceReport,
    Draw,
    Failed,
    FromRank,
    Idle,
    Launch,
    Ping,
    Ready,
    Unstartable,
    Upcoming,
    Worked,
)
from worker.group.rank_process import RANK_MODULE, RankProcess
from worker.group.rendering import Inbox, Rendering
from worker.group.request import OnProgress, RenderRequest, RenderResult, ShouldCancel
from worker.pipeline.dit_clock import DiTSeconds
from worker.pipeline.precision import MemoryUse, Precision
from worker.processes import kill_groups

POLL_S = 0.1
EXIT_TIMEOUT_S = 2.0
KILL_TIMEOUT_S = 4.0
DOWN_TIMEOUT_S = 10.0
"""For the thread that hears the ranks to kill them and see that they are gone."""
PING_TIMEOUT_S = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroupSettings:
    preset: str = "tiny"
    ranks: int = 1
    weights: Path | None = None
    device: str = "auto"
    precision: Precision | None = None
    """None: the one that suits `memory`."""
    memory: MemoryUse = MemoryUse.AMPLE
    gpus: tuple[int, ...] = ()
    """The GPU of each rank; empty: left to `device`."""
    threads_per_rank: int = 1
    start_deadline_s: float = 900.0
    """Importing torch takes ten seconds, loading the large weights some minutes."""
    progress_deadline_s: float = 40.0
    """Longest silence of a group that draws. Below the time after which a worker gives up its lease."""
    finish_deadline_s: float = 120.0
    """Longest time in which the file of a video that is drawn does not grow."""
    collective_timeout_s: float = 120.0


class Group:
    """One life of the ranks: `start`, any number of `draw`s one after the other, `close`."""

    def __init__(self, settings: GroupSettings, *, rank_module: str = RANK_MODULE) -> None:
        self.settings = settings
        self._rank_module = rank_module
        self._ranks: list[RankProcess] = []
        self._devices: dict[int, DeviceReport] = {}
        self._dit: dict[int, DiTSeconds] = {}
        self._in_use = threading.Lock()
        self._lock = threading.Lock()
        self._renderings: dict[str, Rendering] = {}
        self._idle_told_to: Inbox | None = None
        self._taking_down = threading.Lock()
        self._down = threading.Event()
        self._closing = threading.Event()
        self._deaf = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="group-listener", daemon=True)
        self._failure: GroupFailed | None = None

    def __enter__(self) -> Group:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Launch all ranks at once and wait until each has its weights.

        Call it from a thread that lives as long as the group (see `worker.processes.start_child`). Raises
        `GroupRefused` for a configuration that can never start, and `GroupFailed`.
        """
        with self._in_use, tempfile.TemporaryDirectory(prefix="realvideo-rendezvous-") as directory:
            try:
                self._launch(Path(directory) / "store")
                self._wait_until_ready()
            except BaseException:
                self._take_down()
                raise
            self._listener.start()

    def announce(self, request: RenderRequest) -> None:
        """Have rank 0 prepare a video that is drawn next, while it draws another. Ends with `draw` or `forget`."""
        self._tell_first(Upcoming(request))

    def forget(self, name: str) -> None:
        """A video that was announced will not be drawn."""
        self._tell_first(Cancel(name))

    def draw(
        self, request: RenderRequest, *, wanted_since: float, on_progress: OnProgress, should_cancel: ShouldCancel
    ) -> DrawnVideo:
        """Draw one video; other callers wait for their turn. Its file is finished while others are drawn.

        `wanted_since`, by `time.monotonic`: from when on an idle DiT is counted. Both callbacks are called in this
        thread, `should_cancel` every tenth of a second; a cancel takes about a block. Raises `RenderCanceled`,
        `RenderRefused` and `RenderInterrupted`, after which the group is fit for the next render, or `GroupFailed`,
        after which it is down.
        """
        with self._in_use:
            rendering = self._open(request.name)
            try:
                with self._idle_goes_to(rendering.inbox):
                    for rank in self._ranks:
                        rank.send(Draw(request, wanted_since=wanted_since))
                    rendering.wait_until_drawn(
                        on_progress=on_progress,
                        should_cancel=should_cancel,
                        is_closing=self._closing.is_set,
                        silence_s=self.settings.progress_deadline_s,
                    )
            except (RenderCanceled, RenderRefused, RenderInterrupted):
                self._close(rendering)
                raise
            except GroupFailed as failure:
                self._close(rendering)
                raise self._bring_down(failure.code, failure.message) from None
            except BaseException as error:  # a caller that is interrupted must not leave ranks in mid-render
                self._close(rendering)
                self._bring_down("closed", f"the render was broken off by {type(error).__name__}")
                raise
        return DrawnVideo(self, rendering)

    def render(self, request: RenderRequest, *, on_progress: OnProgress, should_cancel: ShouldCancel) -> RenderResult:
        """Draw one video and wait for its file. Raises as `draw` and `DrawnVideo.finish`."""
        drawn = self.draw(request, wanted_since=time.monotonic(), on_progress=on_progress, should_cancel=should_cancel)
        return drawn.finish(on_progress=on_progress, should_cancel=should_cancel)

    def finish(self, rendering: Rendering, *, on_progress: OnProgress, should_cancel: ShouldCancel) -> RenderResult:
        """See `DrawnVideo.finish`."""
        try:
            return rendering.wait_until_finished(
                on_progress=on_progress, should_cancel=should_cancel, silence_s=self.settings.finish_deadline_s
            )
        except (RenderCanceled, RenderInterrupted, GroupFailed):
            raise
        except BaseException:
            self._tell_first(Cancel(rendering.name))
            raise
        finally:
            self._close(rendering)

    def check(self) -> None:
        """Ask every idle rank for a sign of life. Returns at once while one is drawn: that has its own deadline.

        Raises `GroupFailed` when a rank ended or does not answer; the group is down then.
        """
        if not self._in_use.acquire(blocking=False):
            return
        try:
            self._raise_if_down()
            self._ping()
        except GroupFailed as failure:
            raise self._bring_down(failure.code, failure.message) from None
        finally:
            self._in_use.release()

    def wait_until_down(self, *, timeout_s: float) -> bool:
        """Whether it is down by then."""
        return self._down.wait(timeout_s)

    def close(self) -> None:
        """End all ranks; a render in another thread raises `GroupFailed`. May be called at any time and again."""
        self._closing.set()
        if self._in_use.acquire(timeout=KILL_TIMEOUT_S):
            try:
                self._stop_listening()
                if self._failure is None and not self._any_ended():
                    deadline = time.monotonic() + EXIT_TIMEOUT_S
                    for rank in self._ranks:
                        rank.end(timeout_s=max(0.0, deadline - time.monotonic()))
            finally:
                self._in_use.release()
        self._stop_listening()
        self._take_down()

    @property
    def is_down(self) -> bool:
        """It failed or was closed; it will never render again."""
        return self._failure is not None

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids in the order of ranks."""
        return tuple(rank.process.pid for rank in self._ranks)

    @property
    def devices(self) -> tuple[DeviceReport, ...]:
        """As each rank last reported its device, in the order of ranks."""
        return tuple(self._devices[rank] for rank in sorted(self._devices))

    @property
    def dit_seconds(self) -> DiTSeconds:
        """Of the first rank with the DiT; the others keep step with it."""
        return self._dit[min(self._dit)] if self._dit else DiTSeconds()

    def _launch(self, rendezvous: Path) -> None:
        settings = self.settings
        for rank in range(settings.ranks):
            launch = Launch(
                rank=rank,
                world_size=settings.ranks,
                rendezvous=rendezvous,
                preset=settings.preset,
                weights=settings.weights,
                device=settings.device,
                threads=settings.threads_per_rank,
                collective_timeout_s=settings.collective_timeout_s,
                precision=settings.precision,
                memory=settings.memory,
                gpu=settings.gpus[rank] if settings.gpus else None,
            )
            self._ranks.append(RankProcess.start(launch, module=self._rank_module))

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.settings.start_deadline_s
        waited_for = {rank.rank for rank in self._ranks}
        while waited_for:
            for rank, message in self._messages():
                if isinstance(message, Unstartable):
                    raise GroupRefused(message.code, message.message)
                if isinstance(message, Ready):
                    waited_for.discard(rank)
            if self._closing.is_set():
                raise self._failed("closed", "the group was closed")
            if time.monotonic() > deadline:
                raise self._failed(
                    "start_timeout", f"ranks {sorted(waited_for)} not ready after {self.settings.start_deadline_s:g} s"
                )

    def _open(self, name: str) -> Rendering:
        with self._lock:
            self._raise_if_down()
            if name in self._renderings:
                raise ValueError(f"{name} is rendered already")
            rendering = Rendering(name, ranks=range(len(self._ranks)), cancel=lambda: self._tell_first(Cancel(name)))
            self._renderings[name] = rendering
            return rendering

    def _close(self, rendering: Rendering) -> None:
        with self._lock:
            self._renderings.pop(rendering.name, None)

    @contextmanager
    def _idle_goes_to(self, inbox: Inbox) -> Iterator[None]:
        """For whoever has the ranks: which of them draw nothing is told there."""
        with self._lock:
            self._raise_if_down()
            self._idle_told_to = inbox
        try:
            yield
        finally:
            with self._lock:
                self._idle_told_to = None

    def _ping(self) -> None:
        inbox = Inbox()
        with self._idle_goes_to(inbox):
            silent = {rank.rank for rank in self._ranks}
            for rank in self._ranks:
                rank.send(Ping())
            deadline = time.monotonic() + PING_TIMEOUT_S
            while silent:
                message = inbox.get()
                if isinstance(message, Idle):
                    silent.discard(message.rank)
                if time.monotonic() > deadline:
                    raise GroupFailed("no_progress", f"idle ranks {sorted(silent)} do not answer")

    def _tell_first(self, message: Upcoming | Cancel) -> None:
        ranks = self._ranks
        if ranks:  # else the group is down, and nobody has anything to prepare or to stop
            ranks[0].send(message)

    def _listen(self) -> None:
        """The thread that hears the ranks, until the group fails or is closed."""
        try:
            while self._failure is None and not self._deaf.is_set():
                for rank, message in self._messages():
                    self._deliver(rank, message)
        except GroupFailed as failure:
            self._failed(failure.code, failure.message)
        except BaseException as error:
            self._failed("rank_failed", f"the ranks could not be heard any more: {type(error).__name__}")
            raise
        finally:
            if self._failure is not None:
                self._take_down()

    def _deliver(self, rank: int, message: FromRank) -> None:
        if isinstance(message, Worked):
            self._dit[message.rank] = message.dit
            return
        with self._lock:
            inbox = self._idle_told_to if isinstance(message, Idle) else self._inbox_of(rank, message)
        if inbox is not None:
            inbox.put(message)

    def _inbox_of(self, rank: int, message: FromRank) -> Inbox | None:
        """Of the render that the message is about; the lock is held. None: that is decided already, or not by it."""
        rendering = self._renderings.get(getattr(message, "name", ""))
        return None if rank != 0 or rendering is None else rendering.inbox

    def _bring_down(self, code: str, message: str) -> GroupFailed:
        """Have the ranks killed, wait until they are, and say why: for this reason, unless there was another before."""
        failure = self._failed(code, message)
        if not self._down.wait(DOWN_TIMEOUT_S):
            log.critical("the group was not down %g s after it failed: %s", DOWN_TIMEOUT_S, failure.message)
        return GroupFailed(failure.code, failure.message)

    def _stop_listening(self) -> None:
        self._deaf.set()
        if self._listener.is_alive():
            self._listener.join(timeout=DOWN_TIMEOUT_S)

    def _messages(self) -> Iterator[tuple[int, FromRank]]:
        """What the ranks said within the next tenth of a second. Raises `GroupFailed` when one ended or failed."""
        by_pipe = {rank.pipe: rank.rank for rank in self._ranks}
        for pipe in wait(list(by_pipe), timeout=POLL_S):
            assert isinstance(pipe, Connection)
            try:
                message: FromRank = pipe.recv()
            except (EOFError, ConnectionResetError):
                raise self._failed(*explain(self._ranks, by_pipe[pipe])) from None
            if isinstance(message, Failed):
                raise self._failed(*explain(self._ranks, by_pipe[pipe], message))
            if isinstance(message, Ready | Idle):
                self._devices[message.rank] = message.device
            yield by_pipe[pipe], message

    def _failed(self, code: str, message: str) -> GroupFailed:
        self._failure = self._failure or GroupFailed(code, message)
        return self._failure

    def _raise_if_down(self) -> None:
        if self._failure is not None:
            raise GroupFailed(self._failure.code, self._failure.message)
        if not self._ranks:
            raise GroupFailed("closed", "the group was not started")

    def _any_ended(self) -> bool:
        return any(rank.ending() is not None for rank in self._ranks)

    def _take_down(self) -> None:
        """Kill every rank and all it started, and see that nothing is left. Does nothing the second time."""
        with self._taking_down:
            if self._failure is None:
                self._failure = GroupFailed("closed", "the group was closed")
            elif self._ranks and self._failure.code != "closed":
                log.error("the group goes down: %s: %s", self._failure.code, self._failure.message)
            left = kill_groups([rank.process for rank in self._ranks], timeout_s=KILL_TIMEOUT_S)
            if left:
                log.critical("process groups %s outlived SIGKILL", left)
            for rank in self._ranks:
                rank.close()
            self._ranks = []
            self._devices = {}
        with self._lock:
            told = [rendering.inbox for rendering in self._renderings.values()]
            told += [] if self._idle_told_to is None else [self._idle_told_to]
        for inbox in told:
            inbox.put(self._failure)
        self._down.set()


class DrawnVideo:
    """A video whose frames are all drawn: what is left is its file. The ranks are free for the next."""

    def __init__(self, group: Group, rendering: Rendering) -> None:
        self._group = group
        self._rendering = rendering

    def finish(self, *, on_progress: OnProgress, should_cancel: ShouldCancel) -> RenderResult:
        """Wait for the file, once. The callbacks as in `Group.draw`.

        Raises `RenderCanceled`, `RenderInterrupted`, and `GroupFailed` when the group went down, for whatever reason.
        """
        return self._group.finish(self._rendering, on_progress=on_progress, should_cancel=should_cancel)
