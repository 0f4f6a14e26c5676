"""Inputs from every place they may come from, with a real S3 server and a real web server."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.object_keys import upload_key
from tests.fixtures_s3 import s3_settings_for
from tests.servers.site import Site, reply, running_site
from tests.servers.swift import S3Server
from worker.fetching import FetchLimits, InputError, InputErrorCode, InputGone, InputPlaces, fetch

TENANT = "ten_A"
LIMITS = FetchLimits(max_bytes=1000, timeout_s=5)


@pytest.fixture
def site() -> Iterator[Site]:
    with running_site() as site:
        yield site


@pytest.fixture(scope="module")
def s3_bucket(s3_client: Any) -> str:
    """One bucket for all tests here: the tests differ in their keys."""
    name = f"own-{uuid.uuid4().hex[:20]}"
    s3_client.create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="module")
def films(s3_client: Any, s3_bucket: str) -> str:
    name = f"{s3_bucket}-films"
    s3_client.create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="module")
def places(s3_server: S3Server, s3_bucket: str, films: str) -> InputPlaces:
    return InputPlaces.of(
        s3_settings_for(s3_server, bucket=s3_bucket, s3_allowed_input_buckets=(films,), allow_http_urls=True)
    )


@pytest.fixture(scope="module")
def strict_places(s3_server: S3Server, s3_bucket: str) -> InputPlaces:
    return InputPlaces.of(s3_settings_for(s3_server, bucket=s3_bucket))


def fetched(source: str, places: InputPlaces, into: Path, *, limits: FetchLimits = LIMITS) -> bytes:
    return fetch(source, places, tenant_id=TENANT, into=into, limits=limits).read_bytes()


def code_of(source: str, places: InputPlaces, into: Path, *, limits: FetchLimits = LIMITS) -> InputErrorCode:
    with pytest.raises(InputError) as caught:
        fetch(source, places, tenant_id=TENANT, into=into, limits=limits)
    assert not into.exists()
    assert caught.value.retryable is (caught.value.code is InputErrorCode.UNREACHABLE)
    return caught.value.code


def test_an_upload_of_this_tenant_is_fetched(
    places: InputPlaces, s3_client: Any, s3_bucket: str, tmp_path: Path
) -> None:
    s3_client.put_object(Bucket=s3_bucket, Key=upload_key(tenant_id=TENANT, upload_id="upl_1"), Body=b"sound")
    assert fetched("upload:upl_1", places, tmp_path / "audio") == b"sound"


def test_an_upload_of_another_tenant_does_not_exist(
    places: InputPlaces, s3_client: Any, s3_bucket: str, tmp_path: Path
) -> None:
    s3_client.put_object(Bucket=s3_bucket, Key=upload_key(tenant_id="ten_B", upload_id="upl_2"), Body=b"secret")
    assert code_of("upload:upl_2", places, tmp_path / "audio") is InputErrorCode.MISSING


@pytest.mark.parametrize("upload_id", ["../../ten_B/uploads/upl_3", "", "a/b", "upl_2\n"])
def test_an_upload_id_cannot_lead_elsewhere(
    places: InputPlaces, s3_client: Any, s3_bucket: str, tmp_path: Path, upload_id: str
) -> None:
    s3_client.put_object(Bucket=s3_bucket, Key=upload_key(tenant_id="ten_B", upload_id="upl_3"), Body=b"secret")
    assert code_of(f"upload:{upload_id}", places, tmp_path / "audio") is InputErrorCode.MISSING


def test_a_file_that_vanished_between_submit_and_render_is_gone(
    places: InputPlaces, s3_client: Any, s3_bucket: str, tmp_path: Path
) -> None:
    key = upload_key(tenant_id=TENANT, upload_id="upl_4")
    s3_client.put_object(Bucket=s3_bucket, Key=key, Body=b"sound")
    s3_client.delete_object(Bucket=s3_bucket, Key=key)
    with pytest.raises(InputGone, match="upl_4 does not exist, or was deleted"):
        fetched("upload:upl_4", places, tmp_path / "audio")


def test_an_object_of_an_allowed_bucket_is_fetched(
    places: InputPlaces, s3_client: Any, films: str, tmp_path: Path
) -> None:
    s3_client.put_object(Bucket=films, Key="2024/ä b.wav", Body=b"sound")
    assert fetched(f"s3://{films}/2024/ä b.wav", places, tmp_path / "audio") == b"sound"


def test_a_bucket_that_is_not_allowed_is_forbidden_even_the_own_one(
    places: InputPlaces, s3_client: Any, s3_bucket: str, tmp_path: Path
) -> None:
    s3_client.put_object(Bucket=s3_bucket, Key=upload_key(tenant_id="ten_B", upload_id="upl_6"), Body=b"secret")
    source = f"s3://{s3_bucket}/{upload_key(tenant_id='ten_B', upload_id='upl_6')}"
    assert code_of(source, places, tmp_path / "audio") is InputErrorCode.URL_FORBIDDEN
    assert code_of("s3://", places, tmp_path / "audio") is InputErrorCode.URL_FORBIDDEN


@pytest.mark.parametrize("key", ["missing.wav", "", "../x", "a//b"])
def test_a_key_that_is_not_there_is_missing(places: InputPlaces, films: str, tmp_path: Path, key: str) -> None:
    assert code_of(f"s3://{films}/{key}", places, tmp_path / "audio") is InputErrorCode.MISSING


def test_credentials_that_may_not_read_an_allowed_bucket_are_refused(
    s3_server: S3Server, s3_bucket: str, films: str, tmp_path: Path
) -> None:
    settings = s3_settings_for(
        s3_server, bucket=s3_bucket, s3_allowed_input_buckets=(films,), s3_secret_access_key="wrong"
    )
    places = InputPlaces.of(settings)
    assert code_of(f"s3://{films}/a.wav", places, tmp_path / "audio") is InputErrorCode.REFUSED
    assert code_of("upload:upl_8", places, tmp_path / "audio") is InputErrorCode.UNREACHABLE


def test_a_storage_that_is_away_is_worth_another_try(s3_server: S3Server, s3_bucket: str, tmp_path: Path) -> None:
    away = s3_settings_for(s3_server, bucket=s3_bucket, s3_endpoint_url="http://127.0.0.1:1")
    assert code_of("upload:upl_9", InputPlaces.of(away), tmp_path / "audio") is InputErrorCode.UNREACHABLE


def test_an_object_over_the_limit_is_refused_wherever_it_lies(
    places: InputPlaces, s3_client: Any, s3_bucket: str, films: str, site: Site, tmp_path: Path
) -> None:
    big = b"a" * 1001
    s3_client.put_object(Bucket=s3_bucket, Key=upload_key(tenant_id=TENANT, upload_id="upl_10"), Body=big)
    s3_client.put_object(Bucket=films, Key="big", Body=big)
    site.serve("/big", reply(200, big))
    for source in ("upload:upl_10", f"s3://{films}/big", site.url("/big")):
        assert code_of(source, places, tmp_path / "audio") is InputErrorCode.TOO_LARGE


def test_a_url_is_fetched(places: InputPlaces, site: Site, tmp_path: Path) -> None:
    site.serve("/a.wav?sig=1", reply(200, b"sound"))
    assert fetched(site.url("/a.wav?sig=1"), places, tmp_path / "audio") == b"sound"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, InputErrorCode.MISSING), (410, InputErrorCode.MISSING), (403, InputErrorCode.REFUSED),
        (401, InputErrorCode.REFUSED), (500, InputErrorCode.UNREACHABLE), (503, InputErrorCode.UNREACHABLE),
    ],
)  # fmt: skip
def test_each_refusal_of_a_web_server_has_its_code(
    places: InputPlaces, site: Site, tmp_path: Path, status: int, code: InputErrorCode
) -> None:
    site.serve("/a.wav", reply(status))
    assert code_of(site.url("/a.wav"), places, tmp_path / "audio") is code


@pytest.mark.parametrize(
    "source", ["http://127.0.0.1/a", "https://127.0.0.1/a", "https://169.254.169.254/latest", "file:///etc/passwd", "a"]
)
def test_a_place_inside_is_forbidden(strict_places: InputPlaces, tmp_path: Path, source: str) -> None:
    assert code_of(source, strict_places, tmp_path / "audio") is InputErrorCode.URL_FORBIDDEN


def test_a_web_server_that_is_away_is_worth_another_try(places: InputPlaces, tmp_path: Path) -> None:
    assert code_of("http://127.0.0.1:1/a.wav", places, tmp_path / "audio") is InputErrorCode.UNREACHABLE
