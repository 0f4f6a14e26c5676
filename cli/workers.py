"""`realvideo workers`: the GPU nodes, for operators. Works on the database itself, as `realvideo keys` does."""

import time
from typing import Annotated

import typer

from cli.database import transaction
from cli.errors import CommandError

LOOK_EVERY_S = 0.5


def workers() -> typer.Typer:
    group = typer.Typer(help="GPU nodes: what they do, and how to stop one (DATABASE_URL).", no_args_is_help=True)
    group.command("list")(list_workers)
    group.command()(drain)
    return group


def list_workers() -> None:
    """List all nodes as they last reported themselves."""
    from rich.table import Table
    from sqlalchemy import select

    from cli.tables import print_table
    from models.worker_node import WorkerNode

    with transaction() as session:
        rows = session.scalars(select(WorkerNode).order_by(WorkerNode.name)).all()
    table = Table("name", "state", "preset", "ranks", "job", "restarts", "last seen", box=None)
    for row in rows:
        seen = f"{row.last_seen_at:%Y-%m-%d %H:%M:%S}"
        table.add_row(
            row.name, row.state, row.preset, str(row.ranks), row.current_job_id or "", str(row.group_restarts), seen
        )
    print_table(table)


def drain(
    name: Annotated[str, typer.Argument(help="As `realvideo workers list` shows it.")],
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait until it has stopped; 0: do not.")] = 60.0,
) -> None:
    """Have a node hand its jobs back and end, as SIGTERM does. Nothing is lost; other nodes go on with the jobs.

    What started the node decides whether it comes back: a supervisor that restarts whatever ends starts it again.
    """
    from models.worker_node import DrainAnswer, request_drain

    with transaction() as session:
        answer = request_drain(session, name)
    if answer is DrainAnswer.UNKNOWN:
        raise CommandError(f"there is no worker {name}.")
    if answer is DrainAnswer.ENDED:
        raise CommandError(f"{name} has ended already.")
    if wait == 0:
        typer.echo(f"{name} was asked to drain.")
        return
    if not _has_stopped(name, within_s=wait):
        raise CommandError(f"{name} was asked to drain and has not stopped within {wait:g} s.")
    typer.echo(f"{name} has stopped.")


def _has_stopped(name: str, *, within_s: float) -> bool:
    from sqlalchemy import select

    from models.worker_node import NodeState, WorkerNode

    deadline = time.monotonic() + within_s
    while True:
        with transaction() as session:
            row = session.execute(
                select(WorkerNode.state, WorkerNode.drain_requested_at).where(WorkerNode.name == name)
            ).one_or_none()
        # a node of this name that started since has cleared the request
        if row is None or row.state == NodeState.STOPPED or row.drain_requested_at is None:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_EVERY_S)
