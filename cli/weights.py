"""`realvideo weights`: the released weights onto this machine, converted once, checked whenever wanted.

Knows options and output; the work is in `worker.weights`.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import CommandError

if TYPE_CHECKING:
    from worker.weights.progress import FileProgress, OnProgress

DIRECTORY = Annotated[
    Path, typer.Argument(envvar="REALVIDEO_WEIGHTS", file_okay=False, help="Where the weights are, or shall be.")
]


def weights() -> typer.Typer:
    group = typer.Typer(help="Fetch, convert and check the released weights.", no_args_is_help=True)
    group.command()(pull)
    group.command()(convert)
    group.command()(verify)
    return group


def pull(directory: DIRECTORY) -> None:
    """Fetch what is missing, about 45 GB in all. A pull that broke off goes on where it stopped."""
    from worker.weights.pull import pull

    directory.mkdir(parents=True, exist_ok=True)
    with _shown() as on_progress:
        manifest = pull(directory, on_progress=on_progress)
    typer.echo(f"{len(manifest.files)} files are in {directory}.")


def convert(directory: DIRECTORY) -> None:
    """Turn pickled files into safetensors, which open faster and can hold no program."""
    from worker.weights.convert import convert

    with _shown() as on_progress:
        made = convert(directory, on_progress=on_progress)
    typer.echo("\n".join(map(str, made)) if made else "Nothing to convert.")


def verify(directory: DIRECTORY) -> None:
    """Read every file through and compare it with what was fetched. Ends with 1 if one differs."""
    from worker.weights.verify import verify

    with _shown() as on_progress:
        damaged = verify(directory, on_progress=on_progress)
    if damaged:
        listed = "; ".join(f"{one.file}: {one.damage}" for one in damaged)
        raise CommandError(f"{listed}. Remove these files and pull again.")
    typer.echo("All files are as they were fetched.")


@contextlib.contextmanager
def _shown() -> "Iterator[OnProgress]":
    """A bar for each file. What goes wrong is a sentence."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    from worker.weights.errors import WeightsError

    bars = Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    tasks: dict[str, TaskID] = {}

    def show(progress: "FileProgress") -> None:
        title = f"{progress.step} {progress.file}"
        if title not in tasks:
            tasks[title] = bars.add_task(title, total=progress.total)
        bars.update(tasks[title], completed=progress.done, total=progress.total)

    try:
        with bars:
            yield show
    except WeightsError as error:
        raise CommandError(f"{error}.") from error
