"""Whether this process was asked to end, and when its job has to be out of its hands."""

import threading
import time


class Drain:
    """Asked for by a signal, read by the threads of the job."""

    def __init__(self, *, grace_s: float) -> None:
        """`grace_s`: from the first request until a job that is still in work is handed back as it is."""
        self._grace_s = grace_s
        self._asked = threading.Event()
        self._hand_back_at = float("inf")

    def ask(self) -> None:
        """A second request takes the grace away."""
        grace_s = 0.0 if self._asked.is_set() else self._grace_s
        self._hand_back_at = min(self._hand_back_at, time.monotonic() + grace_s)
        self._asked.set()

    @property
    def is_asked(self) -> bool:
        return self._asked.is_set()

    @property
    def is_overdue(self) -> bool:
        return time.monotonic() >= self._hand_back_at
