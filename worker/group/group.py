"""The warm group: W rank processes that share one network and render one video at a time.

Knows processes, pipes and deadlines; nothing of jobs, tensors or sockets. A group lives once: whatever goes wrong in a
rank takes all of it down, and `warm_group.py` launches another. There is no recovery inside a group, because a rank
that missed a collective cannot be brought back into step.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType

from worker.group.aftermath import explain
from worker.group.errors import GroupFailed, GroupRefused, RenderCanceled, RenderInterrupted, RenderRefused
from worker.group.messages import (
    Cancel,
    DeviceReport,
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
)
from worker.group.rank_process import RANK_MODULE, RankProcess
from worker.group.request import OnProgress, RenderProgress, RenderRequest, RenderResult, ShouldCancel
from worker.pipeline.precision import MemoryUse, Precision
from worker.processes import kill_groups

POLL_S = 0.1
EXIT_TIMEOUT_S = 2.0
KILL_TIMEOUT_S = 4.0
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
    """Longest silence of a group that renders. Below the time after which a worker gives up its lease."""
    collective_timeout_s: float = 120.0


class Group:
    """One life of the ranks: `start`, any number of `render`s one after the other, `close`."""

    def __init__(self, settings: GroupSettings, *, rank_module: str = RANK_MODULE) -> None:
        self.settings = settings
        self._rank_module = rank_module
        self._ranks: list[RankProcess] = []
        self._devices: dict[int, DeviceReport] = {}
        self._in_use = threading.Lock()
        self._taking_down = threading.Lock()
        self._closing = threading.Event()
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

    def render(self, request: RenderRequest, *, on_progress: OnProgress, should_cancel: ShouldCancel) -> RenderResult:
        """Render one video; other callers wait for their turn.

        Both callbacks are called in this thread, `should_cancel` every tenth of a second; a cancel takes about a block.
        Raises `RenderCanceled`, `RenderRefused` and `RenderInterrupted`, after which the group is fit for the next
        render, or `GroupFailed`, after which it is down.
        """
        with self._in_use:
            self._raise_if_down()
            try:
                outcome = self._drive(request, on_progress=on_progress, should_cancel=should_cancel)
            except BaseException as error:  # a caller that is interrupted must not leave ranks in mid-render
                self._failed("closed", f"the render was broken off by {type(error).__name__}")
                self._take_down()
                raise
        match outcome:
            case Finished():
                return outcome.result
            case Stopped():
                raise RenderCanceled(f"{request.name} was stopped")
            case Refused():
                raise RenderRefused(outcome.code, outcome.message)
            case Interrupted():
                raise RenderInterrupted(outcome.code, outcome.message)

    def check(self) -> None:
        """Ask every idle rank for a sign of life. Returns at once while a render runs: that has its own deadline.

        Raises `GroupFailed` when a rank ended or does not answer; the group is down then.
        """
        if not self._in_use.acquire(blocking=False):
            return
        try:
            self._raise_if_down()
            self._ping()
        except BaseException:
            self._take_down()
            raise
        finally:
            self._in_use.release()

    def close(self) -> None:
        """End all ranks; a render in another thread raises `GroupFailed`. May be called at any time and again."""
        self._closing.set()
        if self._in_use.acquire(timeout=KILL_TIMEOUT_S):
            try:
                if self._failure is None and not self._any_ended():
                    deadline = time.monotonic() + EXIT_TIMEOUT_S
                    for rank in self._ranks:
                        rank.end(timeout_s=max(0.0, deadline - time.monotonic()))
            finally:
                self._in_use.release()
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
                if isinstance(message, Refused):
                    raise GroupRefused(message.code, message.message)
                if isinstance(message, Ready):
                    waited_for.discard(rank)
            if time.monotonic() > deadline:
                raise self._failed(
                    "start_timeout", f"ranks {sorted(waited_for)} not ready after {self.settings.start_deadline_s:g} s"
                )

    def _drive(
        self, request: RenderRequest, *, on_progress: OnProgress, should_cancel: ShouldCancel
    ) -> Finished | Stopped | Refused | Interrupted:
        for rank in self._ranks:
            rank.send(request)
        still_rendering = {rank.rank for rank in self._ranks}
        outcome: Finished | Stopped | Refused | Interrupted | None = None
        cancel_sent = False
        moved_at = time.monotonic()
        while still_rendering:
            for number, message in self._messages():
                moved_at = time.monotonic()
                match message:
                    case RenderProgress():
                        on_progress(message)
                    case Idle():
                        still_rendering.discard(number)
                    case Finished() | Stopped() | Refused() | Interrupted() if number == 0:
                        outcome = message
            if time.monotonic() - moved_at > self.settings.progress_deadline_s:
                raise self._failed(
                    "no_progress",
                    f"no sign of progress for {self.settings.progress_deadline_s:g} s;"
                    f" ranks {sorted(still_rendering)} are still in the render",
                )
            if not cancel_sent and should_cancel():
                self._ranks[0].send(Cancel())
                cancel_sent = True
        if outcome is None:
            raise self._failed("rank_failed", "rank 0 left the render without saying how it ended")
        return outcome

    def _ping(self) -> None:
        for rank in self._ranks:
            rank.send(Ping())
        silent = {rank.rank for rank in self._ranks}
        deadline = time.monotonic() + PING_TIMEOUT_S
        while silent:
            silent -= {rank for rank, _ in self._messages()}
            if time.monotonic() > deadline:
                raise self._failed("no_progress", f"idle ranks {sorted(silent)} do not answer")

    def _messages(self) -> Iterator[tuple[int, FromRank]]:
        """What the ranks said within the next tenth of a second. Raises `GroupFailed` when one ended or failed."""
        if self._closing.is_set():
            raise self._failed("closed", "the group was closed")
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
                rank.pipe.close()
            self._ranks = []
            self._devices = {}
