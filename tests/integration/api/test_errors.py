"""Every error is a problem document, whoever finds it."""

import json
import re
from pathlib import Path

import httpx
import pytest

from api import workers
from api.errors import ErrorCode
from api.patterns import DEMANDS
from infra.local.postgres import EmbeddedPostgres
from tests.integration.api.running import BODY, RunningApi, api_settings, problem, running_api


def test_an_unknown_path_is_not_found(client: httpx.Client) -> None:
    for path in ("/v1/nothing", "/v1/jobs/", "/v2", "/v1/jobs/not-an-id", "/v1/jobs/job_%00", "/static/none.css"):
        assert problem(client.get(path)) == (404, "not_found"), path


def test_people_are_shown_a_page_and_programs_the_document(api: RunningApi) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    with api.client() as client:
        lost = client.get("/dashboard/<nothing>", headers=browser)
        closed = client.get("/dashboard/jobs/job_01ARZ3NDEKTSV4RRFFQ69G5FAV/content", headers=browser)
        assert problem(client.get("/dashboard/nothing")) == (404, "not_found")
        assert problem(client.get("/v1/nothing", headers=browser)) == (404, "not_found")

    assert (lost.status_code, lost.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "There is nothing at /dashboard/&lt;nothing&gt;." in lost.text
    assert lost.headers["x-request-id"] in lost.text
    assert "default-src 'none'" in lost.headers["content-security-policy"]
    assert (closed.status_code, closed.headers["www-authenticate"], ">Log in<" in closed.text) == (401, "Bearer", True)


def test_an_unknown_method_is_told_every_known_one(client: httpx.Client) -> None:
    answer = client.put("/v1/jobs", json=BODY)

    assert problem(answer) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, POST"
    assert client.post("/v1/webhook-endpoints/we_01ARZ3NDEKTSV4RRFFQ69G5FAV").headers["allow"] == "DELETE, GET, PATCH"


def test_a_body_that_is_not_json_is_malformed(client: httpx.Client) -> None:
    as_json = {"Content-Type": "application/json"}
    for content in (b"{", b'{"audio": }', b"\xff\xfe"):
        status, code = problem(client.post("/v1/jobs", content=content, headers=as_json))
        assert (status, code.startswith("malformed_")) == (400, True)
    for content in (b"null", b"[]", b"1", b'"x"', b""):
        assert problem(client.post("/v1/jobs", content=content, headers=as_json)) == (422, "invalid_request")
    form = client.post("/v1/jobs", data=BODY)
    assert problem(form) == (422, "invalid_request")
    assert "Content-Type: application/json" in form.json()["detail"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({**BODY, "audio": "voice.wav"}, "audio: must be the id of an upload (upl_…), s3://bucket/key or an https URL"),
        ({**BODY, "batch_id": "7"}, "batch_id: must be the id of a batch, such as bat_01ARZ3NDEKTSV4RRFFQ69G5FAV"),
        ({**BODY, "prompt": "\0"}, "prompt: must not hold the character NUL"),
    ],
)
def test_text_of_a_wrong_form_is_answered_in_words(client: httpx.Client, body: dict[str, str], said: str) -> None:
    answer = client.post("/v1/jobs", json=body)
    assert problem(answer) == (422, "invalid_request")
    assert answer.json()["detail"] == said


def test_an_unknown_query_parameter_is_named_with_those_that_there_are(client: httpx.Client) -> None:
    answer = client.get("/v1/jobs", params={"stauts": "failed", "limit": 2})
    assert problem(answer) == (422, "invalid_request")
    assert [one["field"] for one in answer.json()["errors"]] == ["stauts"]
    assert "status" in answer.json()["detail"]
    assert problem(client.post("/v1/jobs?wait=1", json=BODY)) == (422, "invalid_request")


def test_every_pattern_of_the_description_has_words(client: httpx.Client) -> None:
    description = client.get("/openapi.json").text
    patterns = re.findall(r'"pattern":"((?:[^"\\]|\\.)*)"', description)
    assert len(patterns) > 20
    assert {json.loads(f'"{pattern}"') for pattern in patterns} <= DEMANDS.keys()


def test_an_error_without_particulars_says_what_to_do(client: httpx.Client) -> None:
    answer = client.get("/v1/jobs", headers={"Authorization": "Bearer rv_wrong"})
    assert problem(answer) == (401, "invalid_api_key")
    assert answer.json()["detail"] == "Not a valid API key. The key is unknown, revoked or expired: use another."


def test_an_id_of_another_kind_is_not_found_and_says_so(client: httpx.Client) -> None:
    answer = client.get("/v1/jobs/bat_01ARZ3NDEKTSV4RRFFQ69G5FAV")
    assert problem(answer) == (404, "not_found")
    assert answer.json()["detail"] == "job_id must be the id of a job, such as job_01ARZ3NDEKTSV4RRFFQ69G5FAV."


def test_a_large_body_is_refused_announced_or_not(client: httpx.Client) -> None:
    large = b'{"prompt": "' + b"x" * 300_000 + b'"}'

    announced = client.post("/v1/jobs", content=large, headers={"Content-Type": "application/json"})
    streamed = client.post("/v1/jobs", content=iter([large]), headers={"Content-Type": "application/json"})

    assert problem(announced) == (413, "body_too_large")
    assert problem(streamed) == (413, "body_too_large")


def test_a_request_id_is_kept_and_a_strange_one_replaced(client: httpx.Client) -> None:
    assert client.get("/healthz", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    strange = client.get("/v1/nothing", headers={"X-Request-Id": "a b<c>"})
    assert re.fullmatch(r"[0-9a-f]{16}", strange.headers["x-request-id"])
    problem(strange)


def test_while_the_database_is_away_requests_may_be_repeated(
    own_postgres: EmbeddedPostgres, broker_url: str, tmp_path: Path
) -> None:
    settings = api_settings(own_postgres.url, broker_url, tmp_path)
    headers = {"Authorization": "Bearer rv_01ARZ3NDEKTSV4RRFFQ69G5FAV_" + "0" * 64}
    with running_api(settings) as api, api.client() as client:
        assert problem(client.get("/v1/jobs", headers=headers)) == (401, "invalid_api_key")
        own_postgres.stop()

        away = client.get("/v1/jobs", headers=headers)
        ready = client.get("/readyz")
        alive = client.get("/healthz")

        assert problem(away) == (503, "database_unavailable")
        assert away.headers["retry-after"] == "5"
        assert problem(ready) == (503, "not_ready")
        assert [error["field"] for error in ready.json()["errors"]] == ["database"]
        assert alive.status_code == 200
        own_postgres.start()
        assert problem(client.get("/v1/jobs", headers=headers)) == (401, "invalid_api_key")


def test_an_unexpected_error_tells_nothing_but_its_request_id(
    api: RunningApi, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr(workers, "fetch_page", broken)

    answer = client.get("/v1/workers")

    assert problem(answer) == (500, "internal_error")
    assert "secret of the house" not in answer.text
    assert any("the secret of the house" in str(record.exc_info) for record in caplog.records)


def test_the_documents_list_every_code_and_no_other() -> None:
    written = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \| (.+?) \| (.+?) \|$", written, re.MULTILINE)

    listed = {(int(status), name, title, remedy) for status, name, title, remedy in rows}
    assert listed == {(code.value.status, code.name, code.value.title, code.value.remedy) for code in ErrorCode}
