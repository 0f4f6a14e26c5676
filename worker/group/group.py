"""The warm group: rank processes that share one network and draw one video at a time.

Knows renders and who has the ranks; nothing of jobs, tensors or sockets. A group lives once: whatever goes wrong in a
rank takes all of it down, and `warm_group.py` launches another. There is no recovery inside a group, because a rank
that missed a collective cannot be brought back into step.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from worker.group.errors import GroupFailed, RenderCanceled, RenderInterrupted, RenderRefused
from worker.group.group_settings import GroupSettings
from worker.group.messages import (
    Cancel,
    DeviceReport,
    Draw,
    Drawn,
    Finished,
    FromRank,
    Idle,
    Interrupted,
    Moved,
    Ping,
    Refused,
    Stopped,
    Upcoming,
    Worked,
)
from worker.group.rank_process import RANK_MODULE
from worker.group.ranks import Ranks
from worker.group.rendering import Inbox, Rendering
from worker.group.request import OnProgress, RenderRequest, RenderResult, ShouldCancel
from worker.pipeline.dit_clock import DiTSeconds

__all__ = ["DrawnVideo", "Group", "GroupSettings"]

CLOSE_TIMEOUT_S = 4.0
"""For what is drawn to notice that the group is closed."""
PING_TIMEOUT_S = 10.0


class Group:
    """One life of the ranks: `start`, any number of `draw`s one after the other, `close`."""

    def __init__(self, settings: GroupSettings, *, rank_module: str = RANK_MODULE) -> None:
        self.settings = settings
        self._closing = threading.Event()
        self._ranks = Ranks(
            settings,
            module=rank_module,
            hear=self._deliver,
            on_down=self._tell_down,
            is_closing=self._closing.is_set,
        )
        self._in_use = threading.Lock()
        self._lock = threading.Lock()
        self._renderings: dict[str, Rendering] = {}
        self._idle_told_to: Inbox | None = None
        self._dit: dict[int, DiTSeconds] = {}

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
            self._ranks.launch(Path(directory) / "store")
            self._ranks.listen()

    def announce(self, request: RenderRequest) -> None:
        """Have rank 0 prepare a video that is drawn next, while it draws another. Ends with `draw` or `forget`."""
        self._ranks.tell_first(Upcoming(request))

    def forget(self, name: str) -> None:
        """A video that was announced will not be drawn."""
        self._ranks.tell_first(Cancel(name))

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
                    self._ranks.tell_all(Draw(request, wanted_since=wanted_since))
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
                raise self._ranks.fail(failure.code, failure.message) from None
            except BaseException as error:  # a caller that is interrupted must not leave ranks in mid-render
                self._close(rendering)
                self._ranks.fail("closed", f"the render was broken off by {type(error).__name__}")
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
            self._ranks.tell_first(Cancel(rendering.name))
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
            self._ranks.raise_if_down()
            self._ping()
        except GroupFailed as failure:
            raise self._ranks.fail(failure.code, failure.message) from None
        finally:
            self._in_use.release()

    def wait_until_down(self, *, timeout_s: float) -> bool:
        """Whether it is down by then."""
        return self._ranks.wait_until_down(timeout_s=timeout_s)

    def close(self) -> None:
        """End all ranks; a render in another thread raises `GroupFailed`. May be called at any time and again."""
        self._closing.set()
        if self._in_use.acquire(timeout=CLOSE_TIMEOUT_S):
            try:
                self._ranks.end()
            finally:
                self._in_use.release()
        else:
            self._ranks.kill()

    @property
    def is_down(self) -> bool:
        """It failed or was closed; it will never render again."""
        return self._ranks.is_down

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids in the order of ranks."""
        return self._ranks.pids

    @property
    def devices(self) -> tuple[DeviceReport, ...]:
        """As each rank last reported its device, in the order of ranks."""
        return self._ranks.devices

    @property
    def dit_seconds(self) -> DiTSeconds:
        """Of the first rank with the DiT; the others keep step with it."""
        return self._dit[min(self._dit)] if self._dit else DiTSeconds()

    def _open(self, name: str) -> Rendering:
        with self._lock:
            self._ranks.raise_if_down()
            if name in self._renderings:
                raise ValueError(f"{name} is rendered already")
            rendering = Rendering(name, ranks=self._ranks.numbers, cancel=lambda: self._ranks.tell_first(Cancel(name)))
            self._renderings[name] = rendering
            return rendering

    def _close(self, rendering: Rendering) -> None:
        with self._lock:
            self._renderings.pop(rendering.name, None)

    @contextmanager
    def _idle_goes_to(self, inbox: Inbox) -> Iterator[None]:
        """For whoever has the ranks: which of them draw nothing is told there."""
        with self._lock:
            self._ranks.raise_if_down()
            self._idle_told_to = inbox
        try:
            yield
        finally:
            with self._lock:
                self._idle_told_to = None

    def _ping(self) -> None:
        inbox = Inbox()
        with self._idle_goes_to(inbox):
            silent = set(self._ranks.numbers)
            self._ranks.tell_all(Ping())
            deadline = time.monotonic() + PING_TIMEOUT_S
            while silent:
                message = inbox.get()
                if isinstance(message, Idle):
                    silent.discard(message.rank)
                if time.monotonic() > deadline:
                    raise GroupFailed("no_progress", f"idle ranks {sorted(silent)} do not answer")

    def _deliver(self, rank: int, message: FromRank) -> None:
        """Called by the thread that hears the ranks. What a render is told is what rank 0 says of it."""
        inbox: Inbox | None = None
        with self._lock:
            match message:
                case Worked():
                    self._dit[rank] = message.dit
                case Idle():
                    inbox = self._idle_told_to
                case Moved() | Drawn() | Finished() | Stopped() | Refused() | Interrupted() if rank == 0:
                    rendering = self._renderings.get(message.name)  # none: nobody waits for it any more
                    inbox = None if rendering is None else rendering.inbox
        if inbox is not None:
            inbox.put(message)

    def _tell_down(self, failure: GroupFailed) -> None:
        with self._lock:
            inboxes = [rendering.inbox for rendering in self._renderings.values()]
            if self._idle_told_to is not None:
                inboxes.append(self._idle_told_to)
        for inbox in inboxes:
            inbox.put(failure)


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
