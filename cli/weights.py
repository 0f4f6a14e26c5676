"""`realvideo weights`: the released weights onto this machine, converted once, checked whenever wanted.

Knows options and output; the work is in `worker.weights`.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import CommandError, ExitCode

if TYPE_CHECKING:
    from worker.weights.catalog import Repository
    from worker.weights.progress import FileProgress, OnProgress
    from worker.weights.pull import PullPlan

DIRECTORY = Annotated[
    Path,
    typer.Option(
        "--directory",
        "-d",
        envvar="REALVIDEO_WEIGHTS",
        file_okay=False,
        help="Where the weights are, or shall be; what a worker and `realvideo render` take as REALVIDEO_WEIGHTS.",
    ),
]
REVISION = Annotated[
    list[str] | None,
    typer.Option(
        "--revision",
        metavar="REPOSITORY=COMMIT",
        help="Begin a new directory at this commit, tag or branch of a repository instead of main; may be repeated.",
    ),
]


def weights() -> typer.Typer:
    group = typer.Typer(
        help="Fetch, convert and check the released weights.",
        epilog="pull, then convert, then REALVIDEO_WEIGHTS=… realvideo doctor. HF_TOKEN and HF_ENDPOINT are heeded. "
        "Exit codes: 0 done · 1 damaged files, no room, or a directory that cannot be used · 2 wrong options · "
        "3 the hub was not reached or broke off; pull again · 4 the hub refused",
        no_args_is_help=True,
    )
    for command in (pull, convert, verify):
        group.command()(command)
    return group


def pull(
    directory: DIRECTORY,
    preset: Annotated[
        str, typer.Option(help="Of which preset; avatar comes with the code, and tiny needs none.")
    ] = "14b",
    revision: REVISION = None,
) -> None:
    """Fetch what is missing: about 45 GB for 14b. A pull that broke off goes on where it stopped.

    The first pull into a directory writes down at which commit each repository was; later ones keep to it. Large
    files are compared with the hash that the hub states; every hash is written down for `verify`.
    """
    from worker.weights.pull import pull

    repositories = _repositories(preset, revision or [])
    with _shown() as on_progress:
        directory.mkdir(parents=True, exist_ok=True)
        manifest = pull(directory, repositories=repositories, on_plan=_tell, on_progress=on_progress)
    typer.echo(f"{len(manifest.files)} files are in {directory}, each with its hash in manifest.json.")


def convert(directory: DIRECTORY) -> None:
    """Turn pickled files into safetensors, once: they open faster and can hold no program. The pickles stay."""
    from worker.pipeline.checkpoint import CheckpointError
    from worker.weights.convert import convert

    _must_be_there(directory)
    try:
        with _shown() as on_progress:
            made = convert(directory, on_progress=on_progress)
    except CheckpointError as error:
        raise CommandError(f"{error}.") from error
    typer.echo("\n".join(map(str, made)) if made else "Nothing to convert.")


def verify(directory: DIRECTORY) -> None:
    """Read every file through and compare it with what was fetched or made. Ends with 1 if one differs."""
    from worker.weights.manifest import Manifest
    from worker.weights.verify import verify

    _must_be_there(directory)
    with _shown() as on_progress:
        damaged = verify(directory, on_progress=on_progress)
        manifest = Manifest.read(directory)
    _tell_revisions(manifest.revisions)
    if damaged:
        listed = "; ".join(f"{one.file}: {one.damage}" for one in damaged)
        raise CommandError(f"{listed}. Remove these files and pull again.")
    typer.echo(f"All {len(manifest.files)} files are as they were fetched or made.")


def _repositories(preset: str, revisions: list[str]) -> "tuple[Repository, ...]":
    """Raises `CommandError` for a preset without files, and for a revision of a repository that it does not need."""
    from dataclasses import replace

    from worker.weights.catalog import FILES_OF_PRESETS

    if preset not in FILES_OF_PRESETS:
        known = ", ".join(FILES_OF_PRESETS)
        raise CommandError(
            f"no files are published for the preset {preset}; for {known} there are.", exit_code=ExitCode.USAGE
        )
    wanted = {repository.name: repository for repository in FILES_OF_PRESETS[preset]}
    for pair in revisions:
        name, _, commit = pair.partition("=")
        if name not in wanted or not commit:
            raise CommandError(
                f"--revision {pair} is not REPOSITORY=COMMIT of one of {', '.join(wanted)}.", exit_code=ExitCode.USAGE
            )
        wanted[name] = replace(wanted[name], revision=commit)
    return tuple(wanted.values())


def _must_be_there(directory: Path) -> None:
    if not directory.is_dir():
        raise CommandError(f"there is no directory {directory}.", exit_code=ExitCode.USAGE)


def _tell(plan: "PullPlan") -> None:
    _tell_revisions(plan.revisions)
    if plan.files:
        size, free = (f"{number / 1e9:.1f} GB" for number in (plan.size, plan.free))
        typer.echo(f"{plan.files} files to fetch: {size}; {free} are free.", err=True)


def _tell_revisions(revisions: Mapping[str, str]) -> None:
    for repository, commit in revisions.items():
        typer.echo(f"{repository} at {commit}", err=True)


@contextlib.contextmanager
def _shown() -> "Iterator[OnProgress]":
    """A bar for each file on a terminal. What goes wrong is a sentence."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from worker.weights.errors import DownloadInterrupted, HubRefused, WeightsError

    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    bars = Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True))
    tasks: dict[str, TaskID] = {}

    def show(progress: "FileProgress") -> None:
        title = f"{progress.step} {progress.file}"
        if title not in tasks:
            tasks[title] = bars.add_task(title, total=progress.total)
        bars.update(tasks[title], completed=progress.done, total=progress.total)

    try:
        with bars:
            yield show
    except DownloadInterrupted as error:
        raise CommandError(f"{error}. Pull again: it goes on from there.", exit_code=ExitCode.UNREACHABLE) from error
    except HubRefused as error:
        raise CommandError(f"{error}.", exit_code=ExitCode.REFUSED) from error
    except WeightsError as error:
        raise CommandError(f"{error}.") from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise CommandError(f"{where}{error.strerror or error}.") from error
