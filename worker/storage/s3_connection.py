"""The connection with an S3 server, and what its failures mean. Knows boto3; knows no object."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    ResponseStreamingError,
)
from urllib3.exceptions import HTTPError

from models.settings import CommonSettings
from worker.storage.contract import AccessRefused, ObjectMissing, StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S: float = 30
REQUEST_TRIES = 5


def s3_client(settings: CommonSettings) -> "S3Client":
    secret = settings.s3_secret_access_key
    # a client of its own session: the default session is shared and not safe to build clients from in threads
    return boto3.session.Session().client(
        "s3",
        endpoint_url=settings.s3_endpoint_url,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=None if secret is None else secret.get_secret_value(),
        config=Config(
            signature_version="s3v4",
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"mode": "standard", "total_max_attempts": REQUEST_TRIES},
            s3={"addressing_style": "path" if settings.s3_endpoint_url else "auto"},
            # other servers than Amazon's need not know the newer checksums; the MD5 of every part is sent instead
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


class BrokenOff(StorageError):
    """The connection ended in the middle of an object, or spoilt it: the next try starts from its beginning."""


@contextmanager
def s3_errors(key: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _refusal(key, error.response) from error
    except (IncompleteReadError, ResponseStreamingError, HTTPError) as error:
        raise BrokenOff(f"The storage broke off {key}: {type(error).__name__}.") from error
    except HTTPClientError as error:
        raise StorageError(f"The storage cannot be reached for {key}: {type(error).__name__}.") from error
    except BotoCoreError as error:
        raise StorageError(f"The storage failed for {key}: {type(error).__name__}.") from error


def _refusal(key: str, response: Any) -> StorageError:
    status = response["ResponseMetadata"]["HTTPStatusCode"]
    code = response["Error"].get("Code", "")
    if code == "NoSuchBucket":
        return StorageError("The storage has no such bucket.")
    if status == 404:
        return ObjectMissing(f"There is no object {key}.")
    if status in (401, 403):
        return AccessRefused(f"The storage refused access to {key} ({code}).")
    return StorageError(f"The storage answered {status} ({code}) for {key}.")
