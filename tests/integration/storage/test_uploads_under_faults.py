"""Uploads over a wire and to a server that fail in the middle: retried, and whole in the end or said to have failed."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures_s3 import s3_settings_for
from tests.servers.faulty_proxy import Cut, Proxy, faulty_proxy
from tests.servers.swift import S3Server
from worker.storage import ObjectMissing, S3Storage, Storage, StorageError, s3_connection
from worker.storage.s3_connection import s3_client as worker_client

MB = 1024 * 1024
KEY = "tenants/ten_1/jobs/job_1/1/video.mp4"
SERVER_ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.fixture
def wire(s3_server: S3Server) -> Iterator[Proxy]:
    with faulty_proxy(int(s3_server.endpoint_url.rsplit(":", 1)[1])) as proxy:
        yield proxy


@pytest.fixture
def storage(wire: Proxy, s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """Behind the wire, with parts of 5 MiB, and not patient with a server that hangs."""
    monkeypatch.setattr(s3_connection, "READ_TIMEOUT_S", 1.5)
    settings = s3_settings_for(s3_server, bucket=s3_bucket, s3_endpoint_url=wire.url)
    return S3Storage(s3_bucket, client=worker_client(settings), part_bytes=5 * MB)


@pytest.fixture(params=[3 * MB, 11 * MB], ids=["one piece", "three parts"])
def content(request: pytest.FixtureRequest) -> bytes:
    return os.urandom(request.param)


def upload(storage: Storage, content: bytes, directory: Path) -> None:
    (directory / "a").write_bytes(content)
    stored = storage.upload(directory / "a", KEY, content_type="video/mp4")
    assert stored.size_bytes == len(content)


def assert_whole_and_alone(client: Any, bucket: str, content: bytes) -> None:
    assert client.get_object(Bucket=bucket, Key=KEY)["Body"].read() == content
    assert [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]] == [KEY]
    assert client.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


def test_a_server_that_answers_500_is_asked_again(
    wire: Proxy, storage: Storage, content: bytes, s3_client: Any, s3_bucket: str, tmp_path: Path
) -> None:
    wire.refusals = [SERVER_ERROR] * 3
    upload(storage, content, tmp_path)
    assert wire.refusals == []
    assert_whole_and_alone(s3_client, s3_bucket, content)


def test_a_server_that_hangs_once_is_asked_again(
    wire: Proxy, storage: Storage, content: bytes, s3_client: Any, s3_bucket: str, tmp_path: Path
) -> None:
    swallowed = 0

    def swallow_the_second_megabyte_and_what_follows_on_its_connection(data: bytes) -> bytes:
        nonlocal swallowed
        if wire.connections == 1 and (swallowed or sent(data) > MB):
            swallowed += len(data)
            return b""
        return data

    passed = 0

    def sent(data: bytes) -> int:
        nonlocal passed
        passed += len(data)
        return passed

    wire.to_server = swallow_the_second_megabyte_and_what_follows_on_its_connection
    upload(storage, content, tmp_path)
    assert swallowed > 0
    assert_whole_and_alone(s3_client, s3_bucket, content)


def test_a_connection_that_ends_in_the_middle_of_the_bytes_begins_again(
    wire: Proxy, storage: Storage, content: bytes, s3_client: Any, s3_bucket: str, tmp_path: Path
) -> None:
    passed = cuts = 0

    def cut_twice(data: bytes) -> bytes:
        nonlocal passed, cuts
        passed += len(data)
        if cuts < 2 and passed > 2 * MB:
            passed, cuts = 0, cuts + 1
            raise Cut
        return data

    wire.to_server = cut_twice
    upload(storage, content, tmp_path)
    assert cuts == 2
    assert_whole_and_alone(s3_client, s3_bucket, content)


@pytest.mark.parametrize("request_line", [b"POST", b"PUT"])
def test_an_answer_that_is_lost_does_not_lose_the_object(
    wire: Proxy, storage: Storage, s3_client: Any, s3_bucket: str, tmp_path: Path, request_line: bytes
) -> None:
    """Of PUT: the first part's. Of POST: that the parts are one object now."""
    content = os.urandom(6 * MB)
    is_asked = is_lost = False

    def listen(data: bytes) -> bytes:
        nonlocal is_asked
        is_asked |= data.startswith(request_line) and b"uploadId=" in data.split(b"\r\n")[0]
        return data

    def lose(data: bytes) -> bytes:
        nonlocal is_lost
        # "100 Continue" is no answer yet
        if is_asked and not is_lost and not data.startswith(b"HTTP/1.1 100"):
            is_lost = True
            raise Cut
        return data

    wire.to_server, wire.to_client = listen, lose
    upload(storage, content, tmp_path)
    assert is_lost
    assert_whole_and_alone(s3_client, s3_bucket, content)


def test_a_completion_that_the_server_forgot_about_is_decided_by_the_object(
    wire: Proxy, storage: Storage, s3_client: Any, s3_bucket: str, tmp_path: Path
) -> None:
    """As Amazon's answers to the second try of a completion whose first answer was lost."""
    content = os.urandom(6 * MB)
    refusal = b"<Error><Code>NoSuchUpload</Code></Error>"
    is_asked = is_refused = False

    def listen(data: bytes) -> bytes:
        nonlocal is_asked
        is_asked |= data.startswith(b"POST") and b"uploadId=" in data.split(b"\r\n")[0]
        return data

    def refuse(data: bytes) -> bytes:
        nonlocal is_refused
        if is_asked and not is_refused and not data.startswith(b"HTTP/1.1 100"):
            is_refused = True
            head = b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(refusal)
            return head + refusal
        return data if not is_refused or data.startswith(b"HTTP/1.1") else b""

    wire.to_server, wire.to_client = listen, refuse
    upload(storage, content, tmp_path)
    assert is_refused
    assert_whole_and_alone(s3_client, s3_bucket, content)


def test_a_completion_that_never_happened_is_a_failure(
    wire: Proxy, storage: Storage, s3_client: Any, s3_bucket: str, tmp_path: Path
) -> None:
    def abort_it(data: bytes) -> bytes:
        if data.startswith(b"POST") and b"uploadId=" in data.split(b"\r\n")[0]:
            (begun,) = s3_client.list_multipart_uploads(Bucket=s3_bucket)["Uploads"]
            s3_client.abort_multipart_upload(Bucket=s3_bucket, Key=KEY, UploadId=begun["UploadId"])
        return data

    wire.to_server = abort_it
    with pytest.raises(StorageError):
        upload(storage, os.urandom(6 * MB), tmp_path)
    with pytest.raises(ObjectMissing):
        storage.stat(KEY)


def test_a_server_that_fails_every_time_is_given_up_and_nothing_is_left(
    wire: Proxy, storage: Storage, content: bytes, s3_client: Any, s3_bucket: str, tmp_path: Path
) -> None:
    passed = 0

    def cut(data: bytes) -> bytes:
        nonlocal passed
        passed += len(data)
        if passed > 2 * MB:
            passed = 0
            raise Cut
        return data

    wire.to_server = cut
    with pytest.raises(StorageError) as caught:
        upload(storage, content, tmp_path)
    assert caught.value.retryable
    assert s3_client.list_objects_v2(Bucket=s3_bucket).get("Contents", []) == []
    assert s3_client.list_multipart_uploads(Bucket=s3_bucket).get("Uploads", []) == []
