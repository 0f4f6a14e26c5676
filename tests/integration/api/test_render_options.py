"""How a job is rendered, as clients ask for it: size policy, audio mode, sink rotation."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from models.database import Database
from models.job import AudioMode, Job, SinkRotation, SizePolicy
from tests.integration.api.running import BODY, api_settings, problem, running_api, wrong_fields

OPTIONS = {"size_policy": "reference_bars", "audio_mode": "reference", "sink_rotation": "reference_rounding"}


def test_what_is_asked_for_is_recorded_and_shown(client: httpx.Client, database: Database) -> None:
    answer = client.post("/v1/jobs", json={**BODY, **OPTIONS})
    assert answer.status_code == 201, answer.text
    shown = client.get(f"/v1/jobs/{answer.json()['id']}").json()["input"]
    assert shown.items() >= {**OPTIONS, "width": None, "height": None}.items()
    with database.transaction() as session:
        row = session.get_one(Job, answer.json()["id"])
        assert (row.size_policy, row.width, row.height) == (SizePolicy.REFERENCE_BARS, None, None)
        assert (row.audio_mode, row.sink_rotation) == (AudioMode.REFERENCE, SinkRotation.REFERENCE_ROUNDING)


def test_nothing_said_is_the_exact_size_without_seams_or_drift(client: httpx.Client) -> None:
    shown = client.post("/v1/jobs", json={**BODY, "width": 640}).json()["input"]
    assert shown.items() >= {"size_policy": "exact", "width": 640, "height": 640}.items()
    assert shown.items() >= {"audio_mode": "windowed", "sink_rotation": "exact"}.items()


def test_a_repetition_is_rendered_in_the_same_way(client: httpx.Client) -> None:
    deadline = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)
    job = client.post("/v1/jobs", json={**BODY, **OPTIONS, "deadline": deadline.isoformat()}).json()
    client.post(f"/v1/jobs/{job['id']}/cancel").raise_for_status()
    again = client.post(f"/v1/jobs/{job['id']}/retry").json()
    assert again["input"] == job["input"]


@pytest.mark.parametrize("field", [{"size_policy": "bars"}, {"audio_mode": "fast"}, {"sink_rotation": "none"}])
def test_a_way_that_is_not_known_is_refused_by_its_field(client: httpx.Client, field: dict[str, str]) -> None:
    assert wrong_fields(client.post("/v1/jobs", json={**BODY, **field})).keys() == field.keys()


def test_a_size_beside_a_policy_that_chooses_it_is_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/jobs", json={**BODY, "size_policy": "reference", "width": 480})
    assert problem(answer) == (422, "invalid_request")
    assert "leave width and height out" in answer.text


def test_an_installation_with_tighter_limits_takes_exact_sizes_only(
    database_url: str, broker_url: str, tmp_path: Path, make_key: Callable[..., str]
) -> None:
    settings = api_settings(database_url, broker_url, tmp_path / "objects", max_side=640)
    with running_api(settings) as api, api.client(make_key()) as client:
        answer = client.post("/v1/jobs", json={**BODY, "size_policy": "reference"})
        assert problem(answer) == (422, "size_out_of_limits")
        assert client.post("/v1/jobs", json=BODY).status_code == 201
