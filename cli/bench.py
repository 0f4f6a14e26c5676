"""`realvideo bench`: how its mistakes and what it could not measure are told to the shell.

The command itself is that of `python -m worker.bench`, with the same options.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec

from cli.errors import CommandError, ExitCode
from worker.bench.command import NotAllMeasured
from worker.bench.command import bench as _bench
from worker.bench.plan import UnusableOptions

Options = ParamSpec("Options")


def _told_to_the_shell(command: Callable[Options, None]) -> Callable[Options, None]:
    @functools.wraps(command)
    def told(*args: Options.args, **kwargs: Options.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except UnusableOptions as error:
            raise CommandError(f"{error}.", exit_code=ExitCode.USAGE) from error
        except NotAllMeasured as error:
            raise CommandError(f"{error}.") from error

    return told


bench = _told_to_the_shell(_bench)
