"""How a job is rendered, as clients ask for it: size policy, audio mode, sink rotation."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from models.database import Database
from models.job import AudioMode, Job, SinkRotation, SizePolicy
from models.presets import PICTURE_SIZES
from tests.integration.api.running import BODY, api_settings, problem, running_api, wrong_fields
from worker.pipeline.config import PRESETS

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


AVATAR = {**BODY, "preset": "avatar"}


def test_the_sizes_that_a_preset_can_draw_are_those_of_its_network() -> None:
    assert {name: config.picture_sizes for name, config in PRESETS.items() if config.picture_sizes} == PICTURE_SIZES


@pytest.mark.parametrize("named", [{}, {"size_policy": "reference"}, {"size_policy": None, "width": None}])
def test_without_a_size_the_picture_decides_between_those_of_the_avatar(
    client: httpx.Client, named: dict[str, object]
) -> None:
    shown = client.post("/v1/jobs", json={**AVATAR, **named}).json()["input"]
    assert shown.items() >= {"size_policy": "reference", "width": None, "height": None}.items()


def test_a_size_of_the_avatar_can_be_asked_for(client: httpx.Client) -> None:
    shown = client.post("/v1/jobs", json={**AVATAR, "width": 144, "height": 192}).json()["input"]
    assert shown.items() >= {"size_policy": "exact", "width": 144, "height": 192}.items()


@pytest.mark.parametrize(
    ("named", "field"),
    [
        ({"width": 480, "height": 640}, "width"),
        ({"width": 192}, "width"),
        ({"size_policy": "exact"}, "width"),
        ({"size_policy": "reference_bars"}, "size_policy"),
    ],
)
def test_a_size_that_the_avatar_cannot_draw_is_refused_with_those_that_it_can(
    client: httpx.Client, named: dict[str, object], field: str
) -> None:
    answer = client.post("/v1/jobs", json={**AVATAR, **named})
    assert problem(answer) == (422, "size_out_of_limits")
    assert wrong_fields(answer) == {field: "size_out_of_limits"}
    if field == "width":
        assert "192 × 192 or 144 × 192" in answer.json()["detail"]
