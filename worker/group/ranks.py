"""The rank processes of one life of a group: launched together, heard by one thread, and taken down together.

Knows processes, pipes and how they end; nothing of renders. Whatever goes wrong in one rank is the end of all, and the
thread that hears them is the one that kills them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path

from worker.group.aftermath import explain
from worker.group.errors import GroupFailed, GroupRefused
from worker.group.group_settings import GroupSettings
from worker.group.messages import DeviceReport, Failed, FromRank, Idle, Launch, Ready, ToRank, Unstartable
from worker.group.rank_process import RankProcess
from worker.processes import kill_groups

POLL_S = 0.1
STOPPED_S = 2.0
"""How long a rank may stand still by a signal: who stops one for a moment, to look at it, is not a fault."""
EXIT_TIMEOUT_S = 2.0
KILL_TIMEOUT_S = 4.0
DOWN_TIMEOUT_S = 10.0
"""For the thread that hears the ranks to kill them and see that they are gone."""

Hear = Callable[[int, FromRank], None]

log = logging.getLogger(__name__)


class Ranks:
    """`launch`, `listen`, and then `fail` or `end`."""

    def __init__(
        self,
        settings: GroupSettings,
        *,
        module: str,
        hear: Hear,
        on_down: Callable[[GroupFailed], None],
        is_closing: Callable[[], bool],
    ) -> None:
        """`hear` and `on_down` are called by the listening thread, `on_down` when no process is left."""
        self._settings = settings
        self._module = module
        self._hear = hear
        self._on_down = on_down
        self._is_closing = is_closing
        self._ranks: list[RankProcess] = []
        self._devices: dict[int, DeviceReport] = {}
        self._stopped_since: dict[int, float] = {}
        self._listener = threading.Thread(target=self._listen, name="group-listener", daemon=True)
        self._deaf = threading.Event()
        self._taking_down = threading.Lock()
        self._down = threading.Event()
        self._failure: GroupFailed | None = None

    def launch(self, rendezvous: Path) -> None:
        """All at once; returns when each has its weights. Raises `GroupRefused` and `GroupFailed`, with none left."""
        try:
            self._launch(rendezvous)
            self._wait_until_ready()
        except BaseException:
            self._take_down()
            raise

    def listen(self) -> None:
        """From now on `hear` is told what they say, until they fail or are ended."""
        self._listener.start()

    def tell_all(self, message: ToRank) -> None:
        for rank in self._ranks:
            rank.send(message)

    def tell_first(self, message: ToRank) -> None:
        """Rank 0; nobody, when they are down and have nothing to prepare or to stop."""
        for rank in self._ranks[:1]:
            rank.send(message)

    def fail(self, code: str, message: str) -> GroupFailed:
        """Have them killed, wait until they are, and say why: for this reason, unless there was another before."""
        failure = self._failed(code, message)
        if not self._down.wait(DOWN_TIMEOUT_S):
            log.critical("the group was not down %g s after it failed: %s", DOWN_TIMEOUT_S, failure.message)
        return GroupFailed(failure.code, failure.message)

    def end(self) -> None:
        """Ask ranks that are fit to go, as they draw nothing, and see that none is left."""
        self.stop_listening()
        if self._failure is None and all(rank.ending() is None for rank in self._ranks):
            deadline = time.monotonic() + EXIT_TIMEOUT_S
            for rank in self._ranks:
                rank.end(timeout_s=max(0.0, deadline - time.monotonic()))
        self._take_down()

    def kill(self) -> None:
        """See that none is left, whatever they do."""
        self.stop_listening()
        self._take_down()

    def stop_listening(self) -> None:
        self._deaf.set()
        if self._listener.is_alive():
            self._listener.join(timeout=DOWN_TIMEOUT_S)

    def raise_if_down(self) -> None:
        """Raises `GroupFailed`, from the first sign of a failure on."""
        if self._failure is not None:
            raise GroupFailed(self._failure.code, self._failure.message)
        if not self._ranks:
            raise GroupFailed("closed", "the group was not started")

    def wait_until_down(self, *, timeout_s: float) -> bool:
        return self._down.wait(timeout_s)

    @property
    def is_down(self) -> bool:
        return self._failure is not None

    @property
    def numbers(self) -> range:
        return range(len(self._ranks))

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(rank.process.pid for rank in self._ranks)

    @property
    def devices(self) -> tuple[DeviceReport, ...]:
        """As each rank last reported its device, in the order of ranks."""
        return tuple(self._devices[rank] for rank in sorted(self._devices))

    def _launch(self, rendezvous: Path) -> None:
        settings = self._settings
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
                compiled=settings.compiled,
                gpu=settings.gpus[rank] if settings.gpus else None,
            )
            self._ranks.append(RankProcess.start(launch, module=self._module))

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self._settings.start_deadline_s
        waited_for = set(self.numbers)
        while waited_for:
            for rank, message in self._messages():
                if isinstance(message, Unstartable):
                    raise GroupRefused(message.code, message.message)
                if isinstance(message, Ready):
                    waited_for.discard(rank)
            if self._is_closing():
                raise self._failed("closed", "the group was closed")
            if time.monotonic() > deadline:
                raise self._failed(
                    "start_timeout", f"ranks {sorted(waited_for)} not ready after {self._settings.start_deadline_s:g} s"
                )

    def _listen(self) -> None:
        try:
            while self._failure is None and not self._deaf.is_set():
                for rank, message in self._messages():
                    self._hear(rank, message)
        except GroupFailed as failure:
            self._failed(failure.code, failure.message)
        except BaseException as error:
            self._failed("rank_failed", f"the ranks could not be heard any more: {type(error).__name__}")
            raise
        finally:
            if self._failure is not None:
                self._take_down()

    def _messages(self) -> Iterator[tuple[int, FromRank]]:
        """What they said within the next tenth of a second. Raises `GroupFailed` when one ended or failed."""
        by_pipe = {rank.pipe: rank.rank for rank in self._ranks}
        self._see_that_none_stands_still()
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

    def _see_that_none_stands_still(self) -> None:
        """A stopped rank says nothing, and the others wait for it: no need to wait for their deadline."""
        now = time.monotonic()
        stopped = [rank.rank for rank in self._ranks if rank.is_stopped]
        self._stopped_since = {rank: self._stopped_since.get(rank, now) for rank in stopped}
        for rank, since in self._stopped_since.items():
            if now - since > STOPPED_S:
                raise self._failed("rank_stopped", f"rank {rank} has been stopped by a signal for {STOPPED_S:g} s")

    def _failed(self, code: str, message: str) -> GroupFailed:
        self._failure = self._failure or GroupFailed(code, message)
        return self._failure

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
            self._on_down(self._failure)
            self._down.set()
