"""Both kinds of storage keep the same promises: a real S3 server, and a directory."""

import hashlib
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.settings import CommonSettings
from tests.fixtures_s3 import s3_settings_for
from tests.servers.faulty_proxy import Cut, Proxy, faulty_proxy
from tests.servers.site import running_site
from tests.servers.swift import S3Server
from worker.storage import (
    AccessRefused,
    LocalStorage,
    ObjectMissing,
    ObjectTooLarge,
    S3Storage,
    Storage,
    StorageError,
    open_input_buckets,
    open_storage,
    s3_connection,
)
from worker.storage.s3_connection import s3_client as worker_client

MB = 1024 * 1024
KEY = "tenants/ten_1/jobs/job_1/1/video.mp4"


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return LocalStorage(tmp_path / "objects")
    return open_storage(request.getfixturevalue("s3_settings"))


@pytest.fixture
def wire(s3_server: S3Server) -> Iterator[Proxy]:
    with faulty_proxy(int(s3_server.endpoint_url.rsplit(":", 1)[1])) as proxy:
        yield proxy


@pytest.fixture
def storage_over_wire(wire: Proxy, s3_server: S3Server, s3_bucket: str) -> Storage:
    return open_storage(s3_settings_for(s3_server, bucket=s3_bucket, s3_endpoint_url=wire.url))


def file_of(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_what_was_uploaded_is_found_and_downloaded_unchanged(storage: Storage, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    stored = storage.upload(file_of(tmp_path / "a", content), KEY, content_type="video/mp4")
    assert (stored.key, stored.size_bytes) == (KEY, 300_000)
    assert stored.sha256 == hashlib.sha256(content).hexdigest()
    assert storage.stat(KEY).size_bytes == 300_000
    assert storage.download(KEY, tmp_path / "b", max_bytes=300_000) == stored
    assert (tmp_path / "b").read_bytes() == content


def test_an_empty_object_is_an_object(storage: Storage, tmp_path: Path) -> None:
    storage.upload(file_of(tmp_path / "a", b""), KEY, content_type="video/mp4")
    assert storage.download(KEY, tmp_path / "b", max_bytes=10).size_bytes == 0


def test_an_upload_replaces_what_was_there(storage: Storage, tmp_path: Path) -> None:
    storage.upload(file_of(tmp_path / "a", b"old and longer"), KEY, content_type="video/mp4")
    storage.upload(file_of(tmp_path / "a", b"new"), KEY, content_type="video/mp4")
    storage.download(KEY, tmp_path / "b", max_bytes=100)
    assert (tmp_path / "b").read_bytes() == b"new"


def test_a_missing_object_is_said_to_be_missing(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing):
        storage.stat(KEY)
    with pytest.raises(ObjectMissing) as caught:
        storage.download(KEY, tmp_path / "b", max_bytes=100)
    assert not caught.value.retryable
    assert not (tmp_path / "b").exists()


def test_an_object_over_the_limit_is_not_downloaded(storage: Storage, tmp_path: Path) -> None:
    storage.upload(file_of(tmp_path / "a", b"a" * 101), KEY, content_type="video/mp4")
    with pytest.raises(ObjectTooLarge):
        storage.download(KEY, tmp_path / "b", max_bytes=100)
    assert not (tmp_path / "b").exists()


def test_deleting_a_prefix_takes_its_objects_and_no_neighbour(storage: Storage, tmp_path: Path) -> None:
    file = file_of(tmp_path / "a", b"a")
    for key in ("t/j/1/video.mp4", "t/j/1/deep/poster.jpg", "t/j/11/video.mp4", "t/j/2/video.mp4"):
        storage.upload(file, key, content_type="video/mp4")
    assert storage.delete_prefix("t/j/1/") == 2
    assert storage.delete_prefix("t/j/1/") == 0
    assert storage.stat("t/j/11/video.mp4").size_bytes == 1
    assert storage.stat("t/j/2/video.mp4").size_bytes == 1
    with pytest.raises(ObjectMissing):
        storage.stat("t/j/1/video.mp4")


@pytest.mark.parametrize("key", ["", "/etc/passwd", "a/../../b", "a//b", "a/./b", "a/b/", "a\0b", "a\\b", "a\nb", ".."])
def test_a_key_that_could_mean_another_file_is_refused(tmp_path: Path, key: str) -> None:
    storage = LocalStorage(tmp_path / "objects")
    with pytest.raises(ValueError, match="not an object key"):
        storage.upload(file_of(tmp_path / "a", b"a"), key, content_type="video/mp4")
    with pytest.raises(ValueError, match="not an object key"):
        storage.download(key, tmp_path / "b", max_bytes=10)


@pytest.mark.parametrize("prefix", ["", "/", "tenants", "../"])
def test_a_prefix_that_says_too_much_is_not_deleted(storage: Storage, prefix: str) -> None:
    with pytest.raises(ValueError, match=r"prefix|key"):
        storage.delete_prefix(prefix)


def test_a_disk_that_fails_is_a_storage_error_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    file_of(tmp_path / "objects", b"this is a file where a directory should be")
    with pytest.raises(StorageError) as caught:
        LocalStorage(tmp_path / "objects").upload(file_of(tmp_path / "a", b"a"), KEY, content_type="video/mp4")
    assert caught.value.retryable


def test_a_copy_that_differs_from_its_source_is_never_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    def spoil(source: Any, sink: Any, _length: int) -> None:
        sink.write(source.read()[:-1] + b"?")

    monkeypatch.setattr(shutil, "copyfileobj", spoil)
    storage = LocalStorage(tmp_path / "objects")
    with pytest.raises(StorageError):
        storage.upload(file_of(tmp_path / "a", b"abc"), KEY, content_type="video/mp4")
    with pytest.raises(ObjectMissing):
        storage.stat(KEY)
    assert list((tmp_path / "objects" / ".incoming").iterdir()) == []


def test_a_large_file_goes_up_in_parts(
    s3_settings: CommonSettings, s3_bucket: str, s3_client: Any, tmp_path: Path
) -> None:
    storage = S3Storage(s3_bucket, client=worker_client(s3_settings), part_bytes=5 * MB)
    content = os.urandom(11 * MB + 7)
    stored = storage.upload(file_of(tmp_path / "a", content), KEY, content_type="video/mp4")
    head = s3_client.head_object(Bucket=s3_bucket, Key=KEY)
    assert head["ETag"].endswith('-3"')
    assert head["ContentType"] == "video/mp4"
    assert storage.stat(KEY) == stored
    assert storage.download(KEY, tmp_path / "b", max_bytes=12 * MB) == stored


def test_a_part_that_is_spoilt_on_the_wire_fails_the_upload_and_leaves_no_parts(
    wire: Proxy, s3_server: S3Server, s3_bucket: str, s3_client: Any, tmp_path: Path
) -> None:
    wire.to_server = lambda data: data.replace(b"MARK", b"MURK")
    settings = s3_settings_for(s3_server, bucket=s3_bucket, s3_endpoint_url=wire.url)
    storage = S3Storage(s3_bucket, client=worker_client(settings), part_bytes=5 * MB)
    with pytest.raises(StorageError):
        storage.upload(file_of(tmp_path / "a", b"a" * (6 * MB) + b"MARK"), KEY, content_type="video/mp4")
    with pytest.raises(ObjectMissing):
        storage.stat(KEY)
    assert s3_client.list_multipart_uploads(Bucket=s3_bucket).get("Uploads", []) == []


def test_bytes_that_are_spoilt_on_the_wire_are_refused_by_the_server(
    wire: Proxy, storage_over_wire: Storage, tmp_path: Path
) -> None:
    wire.to_server = lambda data: data.replace(b"MARK", b"MURK")
    with pytest.raises(StorageError):
        storage_over_wire.upload(file_of(tmp_path / "a", b"a" * 9000 + b"MARK"), KEY, content_type="video/mp4")
    with pytest.raises(ObjectMissing):
        storage_over_wire.stat(KEY)


@pytest.mark.parametrize(("size", "body"), [(3, b"abX"), (2, b"ab")])
def test_a_server_that_stored_something_else_is_found_out(
    s3_server: S3Server, tmp_path: Path, size: int, body: bytes
) -> None:
    def answer(handler: Any, _body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("ETag", '"encrypted-and-so-no-md5"')
        handler.send_header("Content-Length", str(0 if handler.command == "PUT" else size))
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body)

    with running_site() as site:
        site.serve(f"/bucket/{KEY}", answer)
        storage = open_storage(s3_settings_for(s3_server, bucket="bucket", s3_endpoint_url=site.url("")))
        with pytest.raises(StorageError, match=r"was stored with|was not stored"):
            storage.upload(file_of(tmp_path / "a", b"abc"), KEY, content_type="video/mp4")


def test_an_encrypted_bucket_is_verified_by_reading_back(s3_server: S3Server, tmp_path: Path) -> None:
    def answer(handler: Any, _body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("ETag", '"encrypted-and-so-no-md5"')
        handler.send_header("Content-Length", "0" if handler.command == "PUT" else "3")
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(b"abc")

    with running_site() as site:
        site.serve(f"/bucket/{KEY}", answer)
        storage = open_storage(s3_settings_for(s3_server, bucket="bucket", s3_endpoint_url=site.url("")))
        assert storage.upload(file_of(tmp_path / "a", b"abc"), KEY, content_type="video/mp4").size_bytes == 3
        assert [seen[0] for seen in site.seen] == ["PUT", "HEAD", "GET"]


def test_a_server_that_is_busy_for_a_moment_is_asked_again(
    wire: Proxy, storage_over_wire: Storage, tmp_path: Path
) -> None:
    busy = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    wire.refusals = [busy, busy]
    storage_over_wire.upload(file_of(tmp_path / "a", b"abc"), KEY, content_type="video/mp4")
    assert storage_over_wire.stat(KEY).size_bytes == 3


def test_a_server_that_stays_away_is_a_storage_error_that_may_be_tried_again(
    s3_server: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    storage = open_storage(s3_settings_for(s3_server, bucket=s3_bucket, s3_endpoint_url="http://127.0.0.1:1"))
    with pytest.raises(StorageError) as caught:
        storage.stat(KEY)
    assert caught.value.retryable


def test_a_server_that_hangs_is_given_up(
    wire: Proxy, s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swallow(_data: bytes) -> bytes:
        return b""

    wire.to_server = swallow
    monkeypatch.setattr(s3_connection, "READ_TIMEOUT_S", 0.2)
    monkeypatch.setattr(s3_connection, "REQUEST_TRIES", 2)
    storage = open_storage(s3_settings_for(s3_server, bucket=s3_bucket, s3_endpoint_url=wire.url))
    with pytest.raises(StorageError, match="cannot be reached"):
        storage.stat(KEY)


def test_a_download_that_breaks_off_begins_again(wire: Proxy, storage_over_wire: Storage, tmp_path: Path) -> None:
    content = os.urandom(3 * MB)
    storage_over_wire.upload(file_of(tmp_path / "a", content), KEY, content_type="video/mp4")
    passed = 0

    def cut_once(data: bytes) -> bytes:
        nonlocal passed
        passed += len(data)
        if passed > MB:
            passed = -100 * MB
            raise Cut
        return data

    wire.to_client = cut_once
    storage_over_wire.download(KEY, tmp_path / "b", max_bytes=4 * MB)
    assert (tmp_path / "b").read_bytes() == content
    assert passed < 0


def test_a_download_that_breaks_off_every_time_leaves_no_file(
    wire: Proxy, storage_over_wire: Storage, tmp_path: Path
) -> None:
    storage_over_wire.upload(file_of(tmp_path / "a", os.urandom(3 * MB)), KEY, content_type="video/mp4")
    passed = 0

    def cut(data: bytes) -> bytes:
        nonlocal passed
        passed += len(data)
        if passed > MB:
            passed = 0
            raise Cut
        return data

    wire.to_client = cut
    with pytest.raises(StorageError, match="broke off") as caught:
        storage_over_wire.download(KEY, tmp_path / "b", max_bytes=4 * MB)
    assert caught.value.retryable
    assert not (tmp_path / "b").exists()


def test_bytes_that_are_spoilt_on_the_way_back_are_found_out(
    wire: Proxy, storage_over_wire: Storage, tmp_path: Path
) -> None:
    storage_over_wire.upload(file_of(tmp_path / "a", b"a" * 9000 + b"MARK"), KEY, content_type="video/mp4")
    wire.to_client = lambda data: data.replace(b"MARK", b"MURK")
    with pytest.raises(StorageError):
        storage_over_wire.download(KEY, tmp_path / "b", max_bytes=MB)


def test_a_file_that_a_client_put_by_a_presigned_url_can_be_read(
    s3_settings: CommonSettings, s3_bucket: str, s3_client: Any, tmp_path: Path
) -> None:
    url = s3_client.generate_presigned_url("put_object", {"Bucket": s3_bucket, "Key": KEY}, ExpiresIn=60)
    with urllib.request.urlopen(urllib.request.Request(url, data=b"client's", method="PUT"), timeout=10) as answer:
        assert answer.status == 200
    stored = open_storage(s3_settings).download(KEY, tmp_path / "b", max_bytes=100)
    assert (stored.size_bytes, stored.sha256) == (8, hashlib.sha256(b"client's").hexdigest())
    assert open_storage(s3_settings).stat(KEY).sha256 is None


def test_the_s3_server_of_these_tests_refuses_a_tampered_url(s3_bucket: str, s3_client: Any) -> None:
    url = s3_client.generate_presigned_url("put_object", {"Bucket": s3_bucket, "Key": KEY}, ExpiresIn=60)
    forged = re.sub("video.mp4", "other.mp4", url)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(forged, data=b"x", method="PUT"), timeout=10)
    assert caught.value.code == 403
    caught.value.close()


def test_wrong_credentials_are_refused(s3_server: S3Server, s3_bucket: str) -> None:
    storage = open_storage(s3_settings_for(s3_server, bucket=s3_bucket, s3_secret_access_key="wrong"))
    with pytest.raises(AccessRefused):
        storage.stat(KEY)


def test_a_missing_bucket_is_not_taken_for_a_missing_object(s3_server: S3Server, tmp_path: Path) -> None:
    storage = open_storage(s3_settings_for(s3_server, bucket="no-such-bucket"))
    with pytest.raises(StorageError) as caught:
        storage.upload(file_of(tmp_path / "a", b"a"), KEY, content_type="video/mp4")
    assert not isinstance(caught.value, ObjectMissing)


def test_only_allowed_buckets_are_opened_for_inputs_and_never_the_own_one(s3_server: S3Server) -> None:
    allowed = s3_settings_for(s3_server, bucket="own", s3_allowed_input_buckets=("films", "voices"))
    assert set(open_input_buckets(allowed)) == {"films", "voices"}
    with pytest.raises(ValueError, match="every tenant"):
        open_input_buckets(s3_settings_for(s3_server, bucket="own", s3_allowed_input_buckets=("own",)))
