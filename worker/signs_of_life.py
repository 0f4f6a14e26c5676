"""How a parent notices that a child is frozen, as against dead: the child writes a byte into a pipe every few seconds.

A stopped process, or one whose memory thrashes, is alive to the kernel and of no use to anybody. Knows pipes and time;
nothing of what the child does.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress

EVERY_S = 2.0
START_ALLOWANCE_S = 120.0
"""From the start of a child to its first sign: a busy machine imports slowly."""
LONGEST_LOOK_S = 1.0
"""A parent that did not look for longer than this was itself held up, and cannot blame the child for all of it."""


def show_signs_of_life(descriptor: int) -> None:
    """In the child, once: a thread writes into the pipe for as long as the process runs."""
    os.set_blocking(descriptor, False)
    threading.Thread(target=_write, args=(descriptor,), name="signs-of-life", daemon=True).start()


def _write(descriptor: int) -> None:
    while True:
        with suppress(BlockingIOError):  # nobody has looked for hours; the pipe is full of signs
            os.write(descriptor, b".")
        time.sleep(EVERY_S)


class SignsOfLife:
    """The parent's end, for one child. Ask it about once a tick, from one thread."""

    def __init__(self) -> None:
        self._read_end, self.write_end = os.pipe()
        """`write_end` is inherited by the child, and `handed_over` is called then."""
        os.set_blocking(self._read_end, False)
        self._silent_s = 0.0
        self._is_heard = False
        self._looked_at = time.monotonic()

    def handed_over(self) -> None:
        """The child has its end."""
        os.close(self.write_end)

    def silent_s(self) -> float:
        """Seconds without a sign, of those in which somebody looked. A child that is still starting is not silent."""
        now = time.monotonic()
        self._silent_s += min(now - self._looked_at, LONGEST_LOOK_S)
        self._looked_at = now
        with suppress(BlockingIOError):
            if os.read(self._read_end, 65_536):
                self._is_heard = True
                self._silent_s = 0.0
        return self._silent_s if self._is_heard else max(0.0, self._silent_s - START_ALLOWANCE_S)

    def close(self) -> None:
        os.close(self._read_end)
