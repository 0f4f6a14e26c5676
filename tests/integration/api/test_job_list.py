"""Lists of jobs: pages and filters."""

import datetime as dt
from collections.abc import Callable

import httpx
import pytest

from models.batch import Batch
from models.database import Database
from models.ids import IdPrefix, new_id
from models.job import Job
from models.tenant import Tenant
from models.transitions import claim, fail, request_cancel
from tests.integration.api.running import problem


def ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["data"]]


def test_pages_hold_each_job_once_newest_first_even_while_jobs_arrive(
    client: httpx.Client, make_job: Callable[..., Job]
) -> None:
    made = sorted((make_job().id for _ in range(7)), reverse=True)

    seen: list[str] = []
    after: str | None = None
    sizes = []
    while True:
        page = client.get("/v1/jobs", params={"limit": 3, **({} if after is None else {"after": after})}).json()
        seen += [job["id"] for job in page["data"]]
        sizes.append(len(page["data"]))
        make_job()  # the pages that follow must not shift
        after = page["next"]
        if not page["has_more"]:
            break

    assert seen == made
    assert sizes == [3, 3, 1]
    assert after is None


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/webhook-endpoints"])
def test_a_page_after_what_is_no_id_is_refused(client: httpx.Client, path: str) -> None:
    assert problem(client.get(path, params={"after": "2"})) == (422, "invalid_request")


@pytest.mark.parametrize("limit", ["0", "101", "x", "-1"])
def test_a_page_has_between_1_and_100_rows(client: httpx.Client, limit: str) -> None:
    assert problem(client.get("/v1/jobs", params={"limit": limit})) == (422, "invalid_request")


def test_jobs_are_filtered_by_status(client: httpx.Client, database: Database, make_job: Callable[..., Job]) -> None:
    queued, running, failed, canceled = (make_job() for _ in range(4))
    with database.transaction() as session:
        claim(session, running.id, worker="w", preset="tiny")
        claim(session, failed.id, worker="w", preset="tiny")
        fail(session, failed.id, attempt=1, code="x", message="y")
        request_cancel(session, canceled.id, tenant_id=canceled.tenant_id)

    assert ids(client.get("/v1/jobs", params={"status": "running"})) == [running.id]
    assert ids(client.get("/v1/jobs", params={"status": ["queued", "failed"]})) == [failed.id, queued.id]
    assert problem(client.get("/v1/jobs", params={"status": "lost"})) == (422, "invalid_request")


def test_jobs_are_filtered_by_batch_and_custom_id(
    client: httpx.Client, database: Database, tenant: Tenant, make_job: Callable[..., Job]
) -> None:
    batch = Batch(id=new_id(IdPrefix.BATCH), tenant_id=tenant.id, name="b")
    with database.transaction() as session:
        session.add(batch)
    inside, outside = make_job(batch_id=batch.id, custom_id="a"), make_job(custom_id="a")
    make_job(custom_id="b")

    assert ids(client.get("/v1/jobs", params={"batch_id": batch.id})) == [inside.id]
    assert ids(client.get("/v1/jobs", params={"custom_id": "a"})) == [outside.id, inside.id]


def test_jobs_are_filtered_by_the_time_of_creation(client: httpx.Client, make_job: Callable[..., Job]) -> None:
    first, second, third = (make_job() for _ in range(3))

    def listed(**times: dt.datetime) -> list[str]:
        return ids(client.get("/v1/jobs", params={name: time.isoformat() for name, time in times.items()}))

    assert listed(created_after=second.created_at) == [third.id, second.id]
    assert listed(created_before=second.created_at) == [first.id]
    assert listed(created_after=first.created_at, created_before=third.created_at) == [second.id, first.id]
    assert listed(created_after=dt.datetime.min.replace(tzinfo=dt.UTC)) == [third.id, second.id, first.id]


def test_text_is_searched_literally_and_only_in_ones_own_jobs(
    client: httpx.Client, stranger: httpx.Client, make_job: Callable[..., Job]
) -> None:
    by_title = make_job(labels={"title": "Vulkane"})
    by_prompt = make_job(prompt="100% of a_b")
    make_job(prompt="100 of axb")

    assert ids(client.get("/v1/jobs", params={"q": "vulkan"})) == [by_title.id]
    assert ids(client.get("/v1/jobs", params={"q": "100%"})) == [by_prompt.id]
    assert ids(client.get("/v1/jobs", params={"q": "a_b"})) == [by_prompt.id]
    assert ids(client.get("/v1/jobs", params={"q": by_title.id})) == [by_title.id]
    assert ids(stranger.get("/v1/jobs", params={"q": "vulkan"})) == []
