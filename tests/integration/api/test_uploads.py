"""Uploads, and the local directory that holds them: what its signed URLs allow and refuse."""

import datetime as dt
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
import pytest

from models.database import Database
from models.upload import Upload
from tests.integration.api.running import BODY, RunningApi, api_settings, problem, running_api, wrong_fields
from tests.waiting import wait_for

SOUND = bytes(range(256)) * 5000


@pytest.fixture
def plain(api: RunningApi) -> Iterator[httpx.Client]:
    """Requests without a key, as presigned URLs need none."""
    with api.client() as client:
        yield client


def announce(client: httpx.Client, **fields: object) -> dict[str, object]:
    answer = client.post("/v1/uploads", json={"filename": "voice.wav", "content_type": "audio/wav", **fields})
    assert answer.status_code == 201, answer.text
    upload = answer.json()
    assert isinstance(upload, dict)
    return upload


def put(client: httpx.Client, upload: dict[str, object], content: bytes, **headers: str) -> httpx.Response:
    request = upload["put"]
    assert isinstance(request, dict)
    return client.put(request["url"], headers={**request["headers"], **headers}, content=content)


def _changed(url: str, **parameters: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query=urlencode({**dict(parse_qsl(parts.query)), **parameters})))


def test_a_file_is_announced_put_and_named_in_a_job(
    api: RunningApi, client: httpx.Client, plain: httpx.Client, database: Database
) -> None:
    upload = announce(client, bytes=len(SOUND))
    early = client.post("/v1/jobs", json={**BODY, "audio": upload["id"]})
    assert client.get(f"/v1/uploads/{upload['id']}").json()["bytes"] is None

    stored = put(plain, upload, SOUND)
    job = client.post("/v1/jobs", json={**BODY, "audio": upload["id"]})

    assert problem(early) == (422, "upload_missing")
    assert stored.status_code == 200
    assert client.get(f"/v1/uploads/{upload['id']}").json()["bytes"] == len(SOUND)
    assert (job.status_code, job.json()["input"]["audio"]) == (201, upload["id"])
    with database.transaction() as session:
        key = session.get_one(Upload, upload["id"]).object_key
    assert api.settings.storage_directory is not None
    assert (api.settings.storage_directory / key).read_bytes() == SOUND


def test_an_empty_file_is_refused_when_a_job_names_it(client: httpx.Client, plain: httpx.Client) -> None:
    upload = announce(client)
    assert put(plain, upload, b"").is_success

    answer = client.post("/v1/jobs", json={**BODY, "audio": upload["id"]})

    assert problem(answer) == (422, "upload_empty")
    assert wrong_fields(answer) == {"audio": "upload_empty"}


def test_another_tenants_upload_is_unknown(client: httpx.Client, stranger: httpx.Client, plain: httpx.Client) -> None:
    upload = announce(client)
    assert put(plain, upload, SOUND).is_success

    assert problem(stranger.get(f"/v1/uploads/{upload['id']}")) == (404, "not_found")
    assert problem(stranger.post("/v1/jobs", json={**BODY, "audio": upload["id"]})) == (422, "upload_unknown")


def test_a_file_name_is_a_plain_name(client: httpx.Client, subtests: pytest.Subtests) -> None:
    for filename in ("", "../voice.wav", "a/b", "a\\b", "a\nb", "x" * 256):
        with subtests.test(filename):
            assert problem(client.post("/v1/uploads", json={"filename": filename})) == (422, "invalid_request")


def test_a_tampered_url_is_refused(client: httpx.Client, plain: httpx.Client, subtests: pytest.Subtests) -> None:
    upload, other = announce(client, bytes=4), announce(client)
    url, headers = upload["put"]["url"], upload["put"]["headers"]  # type: ignore[index]
    other_path = urlsplit(other["put"]["url"]).path  # type: ignore[index]
    wrong = {
        "signature": _changed(url, signature="0" * 64),
        "no signature": url.partition("signature=")[0],
        "later expiry": _changed(url, expires="99999999999"),
        "larger size": _changed(url, size="4000000"),
        "another type": _changed(url, type="text/html"),
        "one more parameter": f"{url}&size=5",
        "another key": urlunsplit(urlsplit(url)._replace(path=other_path)),
        "out of the directory": urlunsplit(urlsplit(url)._replace(path="/storage/..%2f..%2fetc/passwd")),
    }
    for name, changed in wrong.items():
        with subtests.test(name):
            assert problem(plain.put(changed, headers=headers, content=b"1234")) == (403, "invalid_signature")
    assert problem(plain.get(url)) == (403, "invalid_signature")
    assert problem(plain.put(url, headers={"Content-Type": "text/html"}, content=b"1234")) == (403, "invalid_signature")
    assert client.get(f"/v1/uploads/{upload['id']}").json()["bytes"] is None


def test_an_expired_url_is_refused(
    database_url: str, broker_url: str, tmp_path: Path, make_key: Callable[..., str]
) -> None:
    settings = api_settings(database_url, broker_url, tmp_path / "objects", upload_url_lifetime_s=1)
    with running_api(settings) as api, api.client(make_key()) as client:
        upload = announce(client)
        expires = dt.datetime.fromisoformat(upload["put"]["expires_at"])  # type: ignore[index]
        while dt.datetime.now(dt.UTC) < expires:
            pass

        assert problem(put(client, upload, SOUND)) == (403, "url_expired")


def test_a_body_of_another_size_than_announced_leaves_nothing(
    api: RunningApi, client: httpx.Client, plain: httpx.Client
) -> None:
    upload = announce(client, bytes=10)

    assert problem(put(plain, upload, b"123456789")) == (400, "malformed_request")
    assert problem(put(plain, upload, b"12345678901")) == (413, "body_too_large")
    assert client.get(f"/v1/uploads/{upload['id']}").json()["bytes"] is None
    assert put(plain, upload, b"1234567890").status_code == 200
    assert _incoming(api) == []


def test_a_body_without_a_length_is_cut_off_at_the_limit(
    database_url: str, broker_url: str, tmp_path: Path, make_key: Callable[..., str]
) -> None:
    settings = api_settings(database_url, broker_url, tmp_path / "objects", max_upload_bytes=100_000)
    with running_api(settings) as api, api.client(make_key()) as client:
        upload = announce(client)
        request = upload["put"]
        assert isinstance(request, dict)

        answer = client.put(request["url"], headers=request["headers"], content=iter([b"x" * 60_000, b"x" * 40_001]))

        assert problem(answer) == (413, "body_too_large")
        assert _incoming(api) == []
        assert problem(client.post("/v1/uploads", json={"filename": "a", "bytes": 100_001})) == (
            422,
            "upload_too_large",
        )
        assert put(client, upload, b"x" * 100_000).status_code == 200


def test_an_upload_that_breaks_off_leaves_nothing(api: RunningApi, client: httpx.Client) -> None:
    upload = announce(client)
    url = urlsplit(upload["put"]["url"])  # type: ignore[index]
    with socket.create_connection((url.hostname, url.port), timeout=5) as connection:
        head = (
            f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: audio/wav\r\n"
            "Content-Length: 1000\r\n\r\n"
        )
        connection.sendall(head.encode() + b"only a part")

    wait_for(lambda: _incoming(api) == [])
    assert client.get(f"/v1/uploads/{upload['id']}").json()["bytes"] is None


def test_what_a_killed_process_left_is_removed_at_the_next_start(
    database_url: str, broker_url: str, tmp_path: Path
) -> None:
    incoming = tmp_path / "objects" / ".incoming"
    incoming.mkdir(parents=True)
    for name, age_s in (("old", 100_000), ("new", 10)):
        (incoming / name).write_bytes(b"part")
        moment = dt.datetime.now().timestamp() - age_s
        os.utime(incoming / name, (moment, moment))

    with running_api(api_settings(database_url, broker_url, tmp_path / "objects")):
        assert [file.name for file in incoming.iterdir()] == ["new"]


def _incoming(api: RunningApi) -> list[Path]:
    assert api.settings.storage_directory is not None
    return list((api.settings.storage_directory / ".incoming").glob("*"))
