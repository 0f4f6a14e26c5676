"""The first Ctrl-C, SIGTERM or SIGHUP ends the program in good order; further ones do not disturb that."""

import signal
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequestedError(BaseException):
    """Somebody wants this program to end. Not an `Exception`: nothing on the way may take it for a failure."""


def stop_at_first_signal() -> None:
    """From now on the first of these signals raises `StopRequestedError` in the main thread."""
    for number in ENDING:
        signal.signal(number, _stop)


def _stop(number: int, _frame: FrameType | None) -> None:
    for ending in ENDING:
        signal.signal(ending, signal.SIG_IGN)
    raise StopRequestedError(signal.Signals(number).name)
