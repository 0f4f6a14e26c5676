"""Waiting for what processes and threads bring about, in place of a sleep that is too short or too long."""

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], object], *, timeout_s: float = 10.0) -> float:
    """Seconds until the condition held; fails when it did not in time."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, f"it did not happen in {timeout_s:g} s"
        time.sleep(0.02)  # many a condition asks the record
    return time.monotonic() - started
