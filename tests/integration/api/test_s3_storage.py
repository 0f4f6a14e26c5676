"""Presigned URLs of a real S3 server."""

import datetime as dt
from typing import Any

import httpx
import pytest

from api.storage import Download, S3Storage, StorageUnavailableError, open_storage
from models.settings import CommonSettings
from tests.fixtures_s3 import s3_settings_for
from tests.servers.swift import S3Server

MINUTE = dt.timedelta(minutes=1)
KEY = "tenants/t/uploads/u"


@pytest.fixture
def storage(s3_settings: CommonSettings) -> S3Storage:
    storage = open_storage(s3_settings)
    assert isinstance(storage, S3Storage)
    return storage


def test_a_presigned_put_takes_exactly_what_was_announced(storage: S3Storage) -> None:
    put = storage.presign_put(KEY, content_type="audio/wav", size_bytes=4, lifetime=MINUTE)

    def send(content: bytes, **headers: str) -> int:
        return httpx.put(put.url, headers={**put.headers, **headers}, content=content, trust_env=False).status_code

    assert storage.size_of(KEY) is None
    assert send(b"1234", **{"Content-Type": "text/html"}) == 403
    assert httpx.put(put.url.replace("uploads/u", "uploads/v"), headers=put.headers, content=b"1234").status_code == 403
    assert send(b"12345", **{"Content-Length": "5"}) == 403
    assert send(b"1234") == 200
    assert storage.size_of(KEY) == 4


def test_a_presigned_get_gives_name_type_and_ranges(storage: S3Storage, s3_client: Any, s3_bucket: str) -> None:
    s3_client.put_object(Bucket=s3_bucket, Key=KEY, Body=b"0123456789")
    url = storage.presign_get(KEY, download=Download(filename="ü.mp4", content_type="video/mp4"), lifetime=MINUTE)

    answer = httpx.get(url, headers={"Range": "bytes=2-4"}, trust_env=False)

    assert (answer.status_code, answer.content) == (206, b"234")
    assert answer.headers["content-type"] == "video/mp4"
    assert answer.headers["content-disposition"] == "inline; filename=\"_.mp4\"; filename*=UTF-8''%C3%BC.mp4"
    assert storage.origin == url[: url.index("/", 8)]
    assert httpx.get(url.replace("video%2Fmp4", "text%2Fhtml"), trust_env=False).status_code == 403


def test_links_are_signed_for_the_public_endpoint(s3_server: S3Server, s3_bucket: str) -> None:
    public = "https://videos.example.com"
    storage = open_storage(s3_settings_for(s3_server, bucket=s3_bucket, s3_public_endpoint_url=public))

    url = storage.presign_get(KEY, download=Download(filename="a", content_type="b/c"), lifetime=MINUTE)

    assert url.startswith(f"{public}/{s3_bucket}/{KEY}?")
    assert storage.origin == public
    assert storage.size_of(KEY) is None  # asked at the other endpoint, which exists


def test_a_storage_that_does_not_answer_is_not_a_missing_object(s3_server: S3Server) -> None:
    storage = open_storage(s3_settings_for(s3_server, bucket="b", s3_endpoint_url="http://127.0.0.1:9"))

    with pytest.raises(StorageUnavailableError):
        storage.size_of(KEY)
