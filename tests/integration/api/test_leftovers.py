"""What the API says of uploads that are about to be deleted, and of what was."""

from collections.abc import Callable

import httpx
from sqlalchemy import text

from models.collected import LeftoverKind
from models.database import Database
from models.leftovers import note_collected
from models.webhook import WebhookEndpoint
from tests.integration.api.running import BODY, problem, wrong_fields


def test_an_upload_that_was_discarded_is_not_there_any_more(client: httpx.Client, database: Database) -> None:
    upload = client.post("/v1/uploads", json={"filename": "voice.wav", "content_type": "audio/wav"}).json()
    put = upload["put"]
    assert httpx.put(put["url"], headers=put["headers"], content=b"sound", trust_env=False).status_code == 200
    assert client.post("/v1/jobs", json={**BODY, "audio": upload["id"]}).status_code == 201
    with database.transaction() as session:
        session.execute(text("UPDATE uploads SET discarded_at = now()"))

    refused = client.post("/v1/jobs", json={**BODY, "audio": upload["id"]})

    assert problem(refused) == (422, "upload_unknown")
    assert wrong_fields(refused) == {"audio": "upload_unknown"}
    assert problem(client.get(f"/v1/uploads/{upload['id']}")) == (404, "not_found")


def test_metrics_tell_of_leftovers_and_webhooks(
    client: httpx.Client, database: Database, make_endpoint: Callable[..., WebhookEndpoint]
) -> None:
    make_endpoint()
    make_endpoint(slow_tries=2)
    with database.transaction() as session:
        note_collected(session, LeftoverKind.ATTEMPT, 3)
        note_collected(session, LeftoverKind.ATTEMPT, 4)
    lines = client.get("/metrics").text.splitlines()
    for line in (
        'realvideo_collected_objects_total{kind="attempt"} 7.0',
        'realvideo_collected_objects_total{kind="upload"} 0.0',
        'realvideo_webhook_endpoints{state="quick"} 1.0',
        'realvideo_webhook_endpoints{state="slow"} 1.0',
        "realvideo_webhooks_pending 0.0",
        "realvideo_webhooks_overdue_seconds 0.0",
    ):
        assert line in lines
