"""The dashboard's page of GPU nodes, by plain requests."""

import datetime as dt
import re
from collections.abc import Callable

import httpx
import pytest
from sqlalchemy import select

from api.keys import Scope
from models.database import Database
from models.job import Job
from models.worker_node import NodeState, WorkerNode
from tests.integration.api.pages import hidden
from tests.integration.api.running import RunningApi, problem

PLACE = "/dashboard/workers"
LogIn = Callable[..., httpx.Client]


@pytest.fixture
def nodes(database: Database, make_job: Callable[..., Job]) -> Job:
    """One that renders the job, one that was silent for two minutes, one that has stopped."""
    now, job = dt.datetime.now(dt.UTC), make_job()
    devices = [{"name": "NVIDIA H200", "memory_total_bytes": 141 * 2**30, "memory_used_bytes": 47 * 2**30}]
    with database.transaction() as session:
        for name, state, seen, current in (
            ("gpu/<1>", NodeState.BUSY, now, job.id),
            ("gpu-2", NodeState.READY, now - dt.timedelta(minutes=2), None),
            ("gpu-3", NodeState.STOPPED, now, None),
        ):
            session.add(
                WorkerNode(
                    name=name, state=state, preset="14b", ranks=3, devices=devices, current_job_id=current,
                    version="1.2.3", last_seen_at=seen, group_restarts=2,
                )
            )  # fmt: skip
    return job


def test_it_shows_what_each_node_does_and_its_memory(log_in: LogIn, nodes: Job) -> None:
    browser = log_in()
    assert f'href="{PLACE}"' in browser.get("/").text

    rows = re.findall(r"<tr>.*?</tr>", browser.get(PLACE).text, re.DOTALL)[1:]

    busy, silent, stopped = (next(row for row in rows if name in row) for name in ("gpu/&lt;1&gt;", "gpu-2", "gpu-3"))
    assert (">busy<" in busy, f"/dashboard/jobs/{nodes.id}" in busy, "47.0 of 141.0 GiB" in busy) == (True, True, True)
    assert (">silent<" in silent, "was ready" in silent, ">stopped<" in stopped) == (True, True, True)
    assert "restarted 2 times" in busy


def test_only_a_key_for_it_drains_and_only_with_the_token(log_in: LogIn, nodes: Job, database: Database) -> None:
    def asked() -> list[str]:
        with database.transaction() as session:
            return list(session.scalars(select(WorkerNode.name).where(WorkerNode.drain_requested_at.is_not(None))))

    form = {"name": "gpu/<1>", "back": PLACE}
    admin = log_in()
    page = admin.get(PLACE)
    assert "/drain" not in page.text
    refused = admin.post(f"{PLACE}/drain", data={**form, "csrf": hidden(page, "csrf")})
    assert refused.headers["location"] == f"{PLACE}?notice=scope_missing"

    operator = log_in(Scope.JOBS_READ, Scope.WORKERS, Scope.DRAIN)
    page = operator.get(PLACE)
    assert page.text.count(">Drain<") == 1
    foreign = operator.post(f"{PLACE}/drain", data={**form, "csrf": "x"}, headers={"Accept": "application/json"})
    assert problem(foreign) == (403, "invalid_csrf_token")
    assert asked() == []
    token = hidden(page, "csrf")
    assert operator.post(f"{PLACE}/drain", data={**form, "csrf": token}).headers["location"] == PLACE
    assert asked() == ["gpu/<1>"]
    assert "asked to end" in operator.get(PLACE).text
    ended = operator.post(f"{PLACE}/drain", data={**form, "csrf": token, "name": "gpu-3"})
    assert "The worker has ended already" in operator.get(ended.headers["location"]).text


def test_it_is_for_keys_that_see_workers(log_in: LogIn, api: RunningApi) -> None:
    reader = log_in(Scope.JOBS_READ)
    assert PLACE not in reader.get("/").text
    assert problem(reader.get(PLACE)) == (403, "scope_missing")
    with api.client() as nobody:
        assert hidden(nobody.get(PLACE), "then") == PLACE
