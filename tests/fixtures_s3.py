"""The real S3 server of the tests: one Swift for a test process, a bucket of its own for every test that asks."""

import uuid
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config

from models.settings import CommonSettings
from tests.servers.swift import S3Server, running_swift


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_swift(tmp_path_factory.mktemp("swift")) as server:
        yield server


@pytest.fixture(scope="session")
def s3_client(s3_server: S3Server) -> Iterator[Any]:
    """A client that trusts nothing of the code under test."""
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=s3_server.endpoint_url,
        region_name=s3_server.region,
        aws_access_key_id=s3_server.access_key_id,
        aws_secret_access_key=s3_server.secret_access_key,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
    yield client
    client.close()


@pytest.fixture
def s3_bucket(s3_client: Any) -> str:
    """The name of a new, empty bucket."""
    name = f"test-{uuid.uuid4().hex[:20]}"
    s3_client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def s3_settings(s3_server: S3Server, s3_bucket: str) -> CommonSettings:
    """Settings of an installation whose storage is the new bucket; its database and broker do not exist."""
    return s3_settings_for(s3_server, bucket=s3_bucket)


def s3_settings_for(server: S3Server, *, bucket: str, **more: object) -> CommonSettings:
    return CommonSettings.model_validate(
        {
            "database_url": "postgresql://nowhere/none",
            "broker_url": "redis://nowhere/0",
            "s3_bucket": bucket,
            "s3_endpoint_url": server.endpoint_url,
            "s3_access_key_id": server.access_key_id,
            "s3_secret_access_key": server.secret_access_key,
            **more,
        }
    )
