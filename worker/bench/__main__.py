"""`python -m worker.bench`: the command `realvideo bench` where only what the networks need is installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from worker.bench.command import NotAllMeasured, bench
from worker.bench.plan import UnusableOptions

FAILED, WRONG_OPTIONS = 1, 2


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 when all was measured, 1 when something was not, 2 for wrong options."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(context_settings={"help_option_names": ["-h", "--help"]})(bench)
    try:
        app(args=list(arguments), prog_name="python -m worker.bench")
    except UnusableOptions as error:
        typer.echo(f"bench: {error}", err=True)
        return WRONG_OPTIONS
    except NotAllMeasured as error:
        typer.echo(f"bench: {error}", err=True)
        return FAILED
    except SystemExit as end:  # typer's way to end
        return end.code if isinstance(end.code, int) else FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
