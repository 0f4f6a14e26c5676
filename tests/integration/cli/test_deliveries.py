"""`realvideo deliveries` against a real API."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select, text

from api.keys import Scope, create_key
from cli.main import main
from models.database import Database
from models.job import Job
from models.tenant import Tenant
from models.transitions import request_cancel
from models.webhook import WebhookDelivery, WebhookEndpoint
from tests.integration.api.running import api_settings, running_api

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def realvideo(
    database: Database, database_url: str, broker_url: str, tenant: Tenant, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> Iterator[Run]:  # fmt: skip
    """`realvideo(*arguments)`: exit code, and what it printed."""
    with database.transaction() as session:
        key = create_key(session, tenant_id=tenant.id, name="test", scopes=[Scope.WEBHOOKS]).token

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["realvideo", "deliveries", *arguments])
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return int(str(code or 0)), said.out + said.err

    with running_api(api_settings(database_url, broker_url, tmp_path)) as api:
        for name, value in {"REALVIDEO_URL": api.url, "REALVIDEO_API_KEY": key, "COLUMNS": "200"}.items():
            monkeypatch.setenv(name, value)
        yield run


@pytest.fixture
def dead(
    database: Database, make_job: Callable[..., Job], make_endpoint: Callable[..., WebhookEndpoint]
) -> list[WebhookDelivery]:
    """Three deliveries to one endpoint, dead since March."""
    make_endpoint()
    with database.transaction() as session:
        for _ in range(3):
            job = make_job()
            request_cancel(session, job.id, tenant_id=job.tenant_id)
        session.execute(text("UPDATE webhook_deliveries SET status = 'dead', created_at = '2026-03-01T12:00Z'"))
        return list(session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id)))


def test_endpoints_and_deliveries_are_listed(realvideo: Run, dead: list[WebhookDelivery]) -> None:
    endpoint_id = dead[0].endpoint_id
    code, said = realvideo("endpoints")
    assert (code, endpoint_id in said) == (0, True)
    code, said = realvideo("list", endpoint_id, "--limit", "2")
    assert (code, dead[2].id in said, dead[1].id in said, dead[0].id in said) == (0, True, True, False)
    assert f"--after {dead[1].id}" in said
    code, said = realvideo("list", endpoint_id, "--status", "pending", "--json")
    assert (code, json.loads(said)["data"]) == (0, [])


def test_one_delivery_is_sent_again(realvideo: Run, dead: list[WebhookDelivery], database: Database) -> None:
    assert realvideo("replay", dead[1].endpoint_id, "--delivery", dead[1].id) == (0, "1 delivery will be sent again\n")
    assert _pending(database) == {dead[1].id}
    code, said = realvideo("replay", dead[1].endpoint_id, "--delivery", dead[1].id)
    assert (code, "delivery_pending" in said) == (4, True)


def test_a_range_is_sent_again_piece_by_piece(
    realvideo: Run, dead: list[WebhookDelivery], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.deliveries.MOST_AT_ONCE", 2)
    endpoint_id = dead[0].endpoint_id
    assert realvideo("replay", endpoint_id, "--since", "2026-03-01T13:00:00Z")[1] == "0 deliveries will be sent again\n"
    code, said = realvideo("replay", endpoint_id, "--since", "2026-03-01T12:00:00Z", "--until", "2026-03-01T12:00:01Z")
    assert (code, said.splitlines()[-1]) == (0, "3 deliveries will be sent again")
    assert _pending(database) == {delivery.id for delivery in dead}


@pytest.mark.parametrize(
    "options",
    [(), ("--delivery", "dlv_1", "--since", "2026-03-01T12:00:00Z"), ("--since", "noon"),
     ("--since", "2026-03-01T12:00:00Z", "--status", "pending"), ("--delivery", "dlv_1", "--status", "dead"),
     ("--since", "2026-03-01T12:00:00Z", "--until", "2026-03-01T11:00:00Z")],
)  # fmt: skip
def test_wrong_options_are_said_before_anything_is_sent(realvideo: Run, options: tuple[str, ...]) -> None:
    code, said = realvideo("replay", "we_1", *options)
    assert (code, said.startswith("realvideo: ")) == (2, True)


def _pending(database: Database) -> set[str]:
    with database.transaction() as session:
        return set(session.scalars(select(WebhookDelivery.id).where(WebhookDelivery.status == "pending")))
