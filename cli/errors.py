"""How a command ends when it does not end well: one plain sentence and an exit code."""

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class ExitCode(IntEnum):
    """Documented in `realvideo --help`; scripts rely on them."""

    OK = 0
    FAILED = 1  # the render or the job failed, or doctor found something needed missing
    USAGE = 2  # wrong options (by typer)
    UNREACHABLE = 3  # no API, no database, or no connection settings
    REFUSED = 4  # the API refused the request: key, quota, bad input
    INTERRUPTED = 130  # Ctrl-C


class CommandError(Exception):
    """What to tell the person at the terminal. The message says what to do, if there is anything."""

    def __init__(self, message: str, *, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def reason_of(problem: "ErrorDetails") -> str:
    """What pydantic says, without what it puts in front of the words of our own checks."""
    return problem["msg"].removeprefix("Value error, ")
