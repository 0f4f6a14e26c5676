"""The `realvideo` command: which subcommands there are, and how they end.

Knows the names and help texts. What a subcommand needs is imported when it runs, so that `--help` answers at once.
"""

import sys
from typing import Annotated

import typer

from cli.avatar import avatar
from cli.bench import bench
from cli.client_commands import cancel, jobs, retry, submit, watch
from cli.deliveries import deliveries
from cli.doctor import doctor
from cli.errors import CommandError, ExitCode
from cli.keys import keys
from cli.render import render
from cli.services import api, create_bucket, migrate, scheduler, webhooks, worker
from cli.show import show
from cli.weights import weights
from cli.workers import workers

RENDERING = "Make a video here"
CLIENT = "Use a running service (REALVIDEO_URL and REALVIDEO_API_KEY, or the running `run.py up`)"
SERVICES = "Run a part of the service"

EPILOG = (
    "Exit codes: 0 done · 1 failed (the job, the render, or doctor found something missing) · 2 wrong options · "
    "3 service or database not reachable · 4 refused by the service · 130 interrupted"
)


def main() -> None:
    """Entry point of the installed script: errors are one sentence on stderr, never a traceback."""
    try:
        command_line()()
    except CommandError as error:
        typer.echo(f"realvideo: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("realvideo: interrupted", err=True)
        sys.exit(ExitCode.INTERRUPTED)


def command_line() -> typer.Typer:
    """All commands. Also what the tests of docker-compose.yml look commands up in."""
    app = typer.Typer(
        name="realvideo",
        help="Turns dubbed sound and a portrait into a lip-synced video.",
        epilog=EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(options)
    app.command(rich_help_panel=RENDERING)(render)
    app.command(rich_help_panel=RENDERING)(doctor)
    app.command(rich_help_panel=RENDERING)(bench)
    app.add_typer(weights(), name="weights", rich_help_panel=RENDERING)
    app.add_typer(avatar(), name="avatar", rich_help_panel=RENDERING)
    for client_command in (submit, jobs, show, watch, cancel, retry):
        app.command(rich_help_panel=CLIENT)(client_command)
    app.add_typer(deliveries(), name="deliveries", rich_help_panel=CLIENT)
    app.add_typer(keys(), name="keys", rich_help_panel=CLIENT)
    app.add_typer(workers(), name="workers", rich_help_panel=SERVICES)
    for service_command in (api, worker, scheduler, webhooks, migrate, create_bucket):
        app.command(rich_help_panel=SERVICES)(service_command)
    return app


def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=lambda asked: _version(asked))
    ] = False,
) -> None:
    """Turns dubbed sound and a portrait into a lip-synced video."""


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(version("realvideo-batch"))
        raise typer.Exit


if __name__ == "__main__":
    main()
