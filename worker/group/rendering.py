"""One render as the group follows it, from the order to draw it to its file.

Knows what the ranks say of it, the deadlines, and what its caller wants; not how the ranks are reached or taken down.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable

from worker.group.errors import GroupFailed, RenderCanceled, RenderInterrupted, RenderRefused
from worker.group.messages import Drawn, Finished, FromRank, Idle, Interrupted, Moved, Outcome, Refused, Stopped
from worker.group.request import OnProgress, RenderResult, ShouldCancel

POLL_S = 0.1


class Inbox:
    """What one waiting thread is told: what ranks said, or that the group is down."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[FromRank | GroupFailed] = queue.SimpleQueue()

    def put(self, message: FromRank | GroupFailed) -> None:
        self._messages.put(message)

    def get(self) -> FromRank | None:
        """The next message, or None when there was none for a tenth of a second. Raises `GroupFailed`."""
        try:
            message = self._messages.get(timeout=POLL_S)
        except queue.Empty:
            return None
        if isinstance(message, GroupFailed):
            raise GroupFailed(message.code, message.message)
        return message


class Rendering:
    """Two waits, one after the other: for all frames, and for the file."""

    def __init__(self, name: str, *, ranks: Iterable[int], cancel: Callable[[], None]) -> None:
        """`ranks` draw it; `cancel` tells them to stop."""
        self.name = name
        self.inbox = Inbox()
        self._drawing = set(ranks)
        self._cancel = cancel
        self._is_drawn = False
        self._outcome: Outcome | None = None

    def wait_until_drawn(
        self, *, on_progress: OnProgress, should_cancel: ShouldCancel, is_closing: Callable[[], bool], silence_s: float
    ) -> None:
        """Until every rank is out of it.

        Raises `RenderCanceled`, `RenderRefused` and `RenderInterrupted`, and `GroupFailed` when the group is down or
        has to go down, as it is silent or closing.
        """
        moved_at = time.monotonic()
        is_cancel_sent = False
        while self._drawing:
            message = self.inbox.get()
            if message is not None:
                moved_at = time.monotonic()
                self._note(message, on_progress)
            if is_closing():
                raise GroupFailed("closed", "the group was closed")
            if time.monotonic() - moved_at > silence_s:
                raise GroupFailed(
                    "no_progress",
                    f"no sign of progress for {silence_s:g} s; ranks {sorted(self._drawing)} are still in the render",
                )
            if not is_cancel_sent and should_cancel():
                self._cancel()
                is_cancel_sent = True
        if self._is_drawn:
            return  # its file may have an outcome already
        if self._outcome is None:
            raise GroupFailed("rank_failed", "rank 0 left the render without saying how it ended")
        self._result(self._outcome)

    def wait_until_finished(
        self, *, on_progress: OnProgress, should_cancel: ShouldCancel, silence_s: float
    ) -> RenderResult:
        """Raises `RenderCanceled` and `RenderInterrupted`, also when the file did not grow for `silence_s`, and
        `GroupFailed` when the group went down, for whatever reason.
        """
        moved_at = time.monotonic()
        is_cancel_sent = False
        while self._outcome is None:
            message = self.inbox.get()
            if message is not None:
                moved_at = time.monotonic()
                self._note(message, on_progress)
            if time.monotonic() - moved_at > silence_s:
                self._cancel()
                raise RenderInterrupted("ffmpeg_failed", "The video's file was not finished in time.")
            if not is_cancel_sent and should_cancel():
                self._cancel()
                is_cancel_sent = True
        return self._result(self._outcome)

    def _note(self, message: FromRank, on_progress: OnProgress) -> None:
        match message:
            case Moved():
                on_progress(message.progress)
            case Drawn():
                self._is_drawn = True
            case Idle():
                self._drawing.discard(message.rank)
            case Finished() | Stopped() | Refused() | Interrupted():
                self._outcome = message

    def _result(self, outcome: Outcome) -> RenderResult:
        match outcome:
            case Finished():
                return outcome.result
            case Stopped():
                raise RenderCanceled(f"{self.name} was stopped")
            case Refused():
                raise RenderRefused(outcome.code, outcome.message)
            case Interrupted():
                raise RenderInterrupted(outcome.code, outcome.message)
