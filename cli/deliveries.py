"""`realvideo deliveries`: what was sent to the webhook endpoints of a running service, and sending it again.

Knows options and output; the HTTP is in `client.py`.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.client_commands import AFTER, JSON, LIMIT, connected_service
from cli.errors import CommandError, ExitCode, reason_of

if TYPE_CHECKING:
    from api.webhook_shapes import RangeToReplay

ENDPOINT_ID = Annotated[str, typer.Argument(help="An endpoint, which `realvideo deliveries endpoints` lists: we_…")]


def deliveries() -> typer.Typer:
    group = typer.Typer(help="Webhooks: what was delivered, and delivering it again.", no_args_is_help=True)
    group.command()(endpoints)
    group.command("list")(list_deliveries)
    group.command()(replay)
    return group


def endpoints(as_json: JSON = False) -> None:
    """List the webhook endpoints."""
    from rich.table import Table

    from cli.tables import print_table

    with connected_service() as service:
        page = service.webhook_endpoints()
    if as_json:
        typer.echo(page.model_dump_json(indent=2))
        return
    table = Table("id", "state", "url", "events", box=None)
    for one in page.data:
        state = "enabled" if one.enabled else f"disabled: {one.disabled_reason}"
        table.add_row(one.id, state, one.url, ", ".join(one.events) or "all")
    print_table(table)


def list_deliveries(
    endpoint: ENDPOINT_ID,
    status: Annotated[str | None, typer.Option(help="pending, delivered or dead.")] = None,
    limit: LIMIT = 20,
    after: AFTER = None,
    as_json: JSON = False,
) -> None:
    """List what was or will be sent to an endpoint, newest first."""
    from rich.table import Table

    from cli.tables import print_table

    given = (("limit", str(limit)), ("status", status), ("after", after))
    with connected_service() as service:
        page = service.deliveries(endpoint, [(name, value) for name, value in given if value is not None])
    if as_json:
        typer.echo(page.model_dump_json(indent=2))
        return
    table = Table("id", "status", "tries", "event", "job", "created", box=None)
    for one in page.data:
        created = f"{one.created_at:%Y-%m-%d %H:%M:%S}"
        table.add_row(one.id, one.status, str(one.tries), one.event_type, one.job_id, created)
    print_table(table)
    if page.has_more:
        typer.echo(f"more: the same command with --after {page.next}")


def replay(
    endpoint: ENDPOINT_ID,
    delivery: Annotated[str | None, typer.Option(help="This one: dlv_…")] = None,
    since: Annotated[str | None, typer.Option(help="All events from this moment on: 2026-03-01T06:00:00Z")] = None,
    until: Annotated[str | None, typer.Option(help="And before this one. Default: until now.")] = None,
    status: Annotated[
        list[str] | None, typer.Option(help="With --since: dead, delivered; may be repeated. Default: dead.")
    ] = None,
) -> None:
    """Send events once more, under their ids: one delivery, or those of a range of time."""
    if (delivery is None) == (since is None) or (delivery is not None and (until or status)):
        raise CommandError("give either --delivery, or --since with --until and --status.", exit_code=ExitCode.USAGE)
    with connected_service() as service:
        if delivery is not None:
            service.replay(endpoint, delivery)
            typer.echo("1 delivery will be sent again")
            return
        count = 0
        for piece in service.replay_range(endpoint, _range(since, until, status)):
            count += piece.replayed
            typer.echo(f"{count} deliveries will be sent again")


def _range(since: str | None, until: str | None, statuses: list[str] | None) -> "RangeToReplay":
    from pydantic import ValidationError

    from api.webhook_shapes import RangeToReplay

    given = {"since": since, "until": until, "statuses": statuses}
    try:
        return RangeToReplay.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "until"
        option = {"statuses": "status"}.get(name, name)
        raise CommandError(f"--{option}: {reason_of(first)}.", exit_code=ExitCode.USAGE) from error
