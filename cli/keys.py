"""`realvideo keys`: API keys. Works on the database itself, so that the first key needs no key.

Knows DATABASE_URL, or the database of the running `run.py up`.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.database import transaction
from cli.errors import CommandError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from api.keys import Scope

ALL = ("jobs:read", "jobs:write", "webhooks", "workers")


def keys() -> typer.Typer:
    group = typer.Typer(help="API keys, made in the database itself (DATABASE_URL).", no_args_is_help=True)
    group.command()(create)
    group.command("list")(list_keys)
    group.command()(revoke)
    return group


def create(
    tenant: Annotated[str, typer.Option(help="Whose key; a tenant that is new is made.")] = "default",
    name: Annotated[str, typer.Option(help="What the key is for.")] = "made by the realvideo command",
    scope: Annotated[
        list[str] | None, typer.Option(help=f"May be given several times. Default: {', '.join(ALL)}.")
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires. Default: never.")] = None,
) -> None:
    """Make a key and print it. It is printed this once and cannot be read again."""
    import datetime as dt

    from api.keys import create_key, create_tenant

    expires_at = None if days is None else dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    with transaction() as session:
        try:
            tenant_id = _tenant_id(session, tenant) or create_tenant(session, name=tenant).id
            key = create_key(
                session, tenant_id=tenant_id, name=name, scopes=_scopes(scope or ALL), expires_at=expires_at
            )
        except ValueError as error:
            raise CommandError(f"{error}.", exit_code=ExitCode.USAGE) from error
    typer.echo(key.token)


def list_keys(tenant: Annotated[str, typer.Option(help="Whose keys.")] = "default") -> None:
    """List a tenant's keys, revoked ones too. The secrets are not stored."""
    from rich.table import Table

    from api.keys import list_keys
    from cli.tables import print_table

    with transaction() as session:
        rows = list_keys(session, tenant_id=_known_tenant_id(session, tenant))
    table = Table("id", "name", "scopes", "created", "last used", "state", box=None)
    for row in rows:
        state = "revoked" if row.revoked_at else f"until {row.expires_at:%Y-%m-%d}" if row.expires_at else "valid"
        used = f"{row.last_used_at:%Y-%m-%d %H:%M}" if row.last_used_at else "never"
        table.add_row(row.id, row.name, " ".join(row.scopes), f"{row.created_at:%Y-%m-%d %H:%M}", used, state)
    print_table(table)


def revoke(
    key_id: Annotated[str, typer.Argument(help="As `realvideo keys list` shows it: key_…")],
    tenant: Annotated[str, typer.Option(help="Whose key.")] = "default",
) -> None:
    """Make a key worthless, at once and for good."""
    from api.keys import revoke_key

    with transaction() as session:
        if not revoke_key(session, key_id, tenant_id=_known_tenant_id(session, tenant)):
            raise CommandError(f"the tenant {tenant} has no key {key_id}.")
    typer.echo(f"{key_id} is revoked.")


def _scopes(asked: "Sequence[str]") -> "list[Scope]":
    from api.keys import Scope

    known = [str(scope) for scope in Scope]
    unknown = [scope for scope in asked if scope not in known]
    if unknown:
        raise CommandError(
            f"no such scope: {', '.join(unknown)}; there are {', '.join(known)}.", exit_code=ExitCode.USAGE
        )
    return [Scope(scope) for scope in asked]


def _known_tenant_id(session: "Session", name: str) -> str:
    tenant_id = _tenant_id(session, name)
    if tenant_id is None:
        raise CommandError(f"there is no tenant {name}.")
    return tenant_id


def _tenant_id(session: "Session", name: str) -> str | None:
    from sqlalchemy import select

    from models.tenant import Tenant

    return session.scalar(select(Tenant.id).where(Tenant.name == name))
