"""Following a job by server-sent events."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from api import changes, events
from api.keys import revoke_key
from models.database import Database
from models.job import Job, Phase
from models.tenant import Tenant
from models.transitions import claim, heartbeat, request_cancel
from tests.integration.api.outputs import finish
from tests.integration.api.running import RunningApi
from tests.waiting import wait_for

EVENT_S = 5
"""Far below the heartbeat of a stream, so that an event in time was really announced."""


class Events:
    """The events of an open stream, as they come."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.iter_lines()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        event: dict[str, Any] = {}
        for line in self._lines:
            if line == "":
                if event:
                    yield event
                event = {}
            elif line.startswith(":"):
                yield {"comment": line}
            else:
                name, _, value = line.partition(": ")
                event[name] = json.loads(value) if name == "data" else value

    def next(self) -> dict[str, Any]:
        return next(iter(self))


@contextlib.contextmanager
def opened(client: httpx.Client, job_id: str, **headers: str) -> Iterator[Events]:
    with client.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers, timeout=EVENT_S) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Events(answer)


def test_a_stream_shows_every_step_of_a_job_and_ends_with_it(
    api: RunningApi, client: httpx.Client, database: Database, make_job: Callable[..., Job]
) -> None:
    job = make_job()
    with opened(client, job.id) as stream:
        seen = [stream.next()]
        with database.transaction() as session:
            claim(session, job.id, worker="gpu-1", preset="tiny")
        seen.append(stream.next())
        for done in (1, 2):
            with database.transaction() as session:
                heartbeat(session, job.id, attempt=1, phase=Phase.RENDERING, blocks_done=done, blocks_total=2)
            seen.append(stream.next())
        with database.transaction() as session:
            session.execute(
                text("UPDATE jobs SET status='queued', lease_owner=NULL, lease_expires_at=NULL, phase=NULL")
            )
        seen.append(stream.next())
        finish(database, api, job)
        seen += list(stream)

    steps = [
        (event["data"]["status"], event["data"]["phase"], event["data"]["progress"]["blocks_done"]) for event in seen
    ]
    assert steps[:5] == [
        ("queued", None, 0),
        ("running", "preparing", 0),
        ("running", "rendering", 1),
        ("running", "rendering", 2),
        ("queued", None, 2),
    ]
    assert steps[-1][0] == "succeeded"
    assert {event["event"] for event in seen} == {"job"}
    assert len({event["id"] for event in seen}) == len(seen)
    assert seen[-1]["data"]["output"]["frames"] == 64


def test_a_request_to_cancel_is_an_event(
    client: httpx.Client, database: Database, make_job: Callable[..., Job]
) -> None:
    job = make_job()
    with database.transaction() as session:
        claim(session, job.id, worker="gpu-1", preset="tiny")
    with opened(client, job.id) as stream:
        assert stream.next()["data"]["cancel_requested_at"] is None
        with database.transaction() as session:
            request_cancel(session, job.id, tenant_id=job.tenant_id)
        assert stream.next()["data"]["cancel_requested_at"] is not None


def test_an_ended_job_is_shown_once_and_a_client_that_knows_is_sent_away(
    client: httpx.Client, make_job: Callable[..., Job]
) -> None:
    job = make_job()
    client.post(f"/v1/jobs/{job.id}/cancel")
    with opened(client, job.id) as stream:
        (only,) = list(stream)

    again = client.get(f"/v1/jobs/{job.id}/events", headers={"Last-Event-ID": only["id"]})

    assert only["data"]["status"] == "canceled"
    assert (again.status_code, again.content) == (204, b"")


def test_a_quiet_stream_sends_heartbeats(
    client: httpx.Client, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.3)
    job = make_job()
    with opened(client, job.id) as stream:
        assert "data" in stream.next()
        assert [stream.next(), stream.next()] == [{"comment": ": still here"}] * 2


def test_streams_go_on_by_looking_while_the_listener_is_cut_off(
    client: httpx.Client, database: Database, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "RECONNECT_S", 60)
    job = make_job()
    wait_for(lambda: _cut_off_the_listener(database) == 1)
    with opened(client, job.id) as stream:
        stream.next()
        with database.transaction() as session:
            claim(session, job.id, worker="gpu-1", preset="tiny")
        assert stream.next()["data"]["status"] == "running"


def test_the_listener_comes_back(
    client: httpx.Client, database: Database, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "RECONNECT_S", 0.05)
    monkeypatch.setattr(changes, "POLL_S", 60)  # so that only an announcement can be in time
    job = make_job()
    with opened(client, job.id) as stream:
        stream.next()
        wait_for(lambda: _cut_off_the_listener(database) == 1)
        wait_for(lambda: _listeners(database) == 1)
        with database.transaction() as session:
            claim(session, job.id, worker="gpu-1", preset="tiny")
        assert stream.next()["data"]["status"] == "running"


def test_many_streams_hold_no_database_connection(client: httpx.Client, make_job: Callable[..., Job]) -> None:
    job = make_job()
    with contextlib.ExitStack() as stack:
        streams = []
        for _ in range(60):  # more than connections and threads together
            stream = stack.enter_context(opened(client, job.id))
            stream.next()
            streams.append(stream)
        started = time.monotonic()
        assert client.get(f"/v1/jobs/{job.id}").status_code == 200
        assert time.monotonic() - started < EVENT_S
        client.post(f"/v1/jobs/{job.id}/cancel")
        assert {stream.next()["data"]["status"] for stream in streams} == {"canceled"}


def test_a_revoked_key_ends_its_streams(
    api: RunningApi, database: Database, tenant: Tenant, make_job: Callable[..., Job], make_key: Callable[..., str]
) -> None:
    job = make_job()
    key = make_key()
    with api.client(key) as reader, opened(reader, job.id) as stream:
        stream.next()
        with database.transaction() as session:
            revoke_key(session, f"key_{key.split('_')[1]}", tenant_id=tenant.id)
        with database.transaction() as session:
            claim(session, job.id, worker="gpu-1", preset="tiny")
        assert list(stream) == []


def _cut_off_the_listener(database: Database) -> int:
    with database.transaction() as session:
        cut = session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'realvideo-api-listener' AND datname = current_database()"
                " AND query LIKE 'LISTEN%'"
            )
        ).all()
        return len(cut)


def _listeners(database: Database) -> int:
    with database.transaction() as session:
        return (
            session.scalar(
                text(
                    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'realvideo-api-listener'"
                    " AND datname = current_database() AND query LIKE 'LISTEN%'"
                )
            )
            or 0
        )
