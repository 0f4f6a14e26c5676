"""What became of each try of a job, over HTTP."""

from collections.abc import Callable

import httpx

from api.keys import Scope
from models.database import Database
from models.job import Job
from models.transitions import fail
from tests.integration.api.running import RunningApi, problem
from tests.integration.api.tries import begin_again


def test_a_job_that_is_tried_again_tells_why(
    client: httpx.Client, database: Database, make_job: Callable[..., Job]
) -> None:
    job = make_job()
    assert client.get(f"/v1/jobs/{job.id}/attempts").json()["data"] == []

    begin_again(database, job.id, times=2)

    newest, second, first = client.get(f"/v1/jobs/{job.id}/attempts").json()["data"]
    assert (newest["attempt"], newest["outcome"], newest["ended_at"], newest["error"]) == (3, None, None, None)
    assert (second["attempt"], second["outcome"], second["worker"]) == (2, "error", "gpu-2")
    assert first["error"] == {"code": "storage_down", "message": "no answer 1"}
    assert client.get(f"/v1/jobs/{job.id}").json()["error"] is None

    with database.transaction() as session:
        assert fail(session, job.id, attempt=3, code="bad_sound", message="no sound")
    newest = client.get(f"/v1/jobs/{job.id}/attempts").json()["data"][0]
    assert (newest["outcome"], newest["error"]["code"]) == ("failed", "bad_sound")


def test_attempts_come_in_pages(client: httpx.Client, database: Database, make_job: Callable[..., Job]) -> None:
    job = make_job()
    begin_again(database, job.id, times=2)
    place = f"/v1/jobs/{job.id}/attempts"

    first = client.get(place, params={"limit": 2}).json()
    rest = client.get(place, params={"limit": 2, "after": first["next"]}).json()

    assert [one["attempt"] for one in first["data"] + rest["data"]] == [3, 2, 1]
    assert (first["has_more"], rest["has_more"], rest["next"]) == (True, False, None)
    assert problem(client.get(place, params={"after": "x"})) == (422, "invalid_request")


def test_nodes_are_named_to_those_who_see_workers(
    api: RunningApi,
    make_key: Callable[..., str],
    stranger: httpx.Client,
    database: Database,
    make_job: Callable[..., Job],
) -> None:
    job = make_job()
    begin_again(database, job.id, times=0)
    place = f"/v1/jobs/{job.id}/attempts"

    workers = []
    for scopes in ([Scope.JOBS_READ], [Scope.JOBS_READ, Scope.WORKERS]):
        with api.client(make_key(*scopes)) as client:
            workers.append(client.get(place).json()["data"][0]["worker"])

    assert workers == [None, "gpu-1"]
    assert problem(stranger.get(place)) == (404, "not_found")
