"""Links to objects: presigned PUT and GET, and whether an object is there. Knows two kinds of storage; knows no job.

A bucket signs by itself (S3, signature v4). A local directory is served by this API, whose URLs `SignedUrls` signs.
"""

import datetime as dt
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from api.local_urls import SignedUrls
from models.settings import CommonSettings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 5
INCOMING = ".incoming"  # where a directory keeps objects until they are whole


class StorageUnavailableError(Exception):
    """The storage gave no usable answer."""


@dataclass(frozen=True)
class PresignedPut:
    """Where and how to put an object. The headers are signed: send exactly these."""

    url: str
    headers: dict[str, str]
    expires_at: dt.datetime


class Disposition(StrEnum):
    """What a browser does with a file that a link leads to."""

    INLINE = "inline"  # plays it in place
    ATTACHMENT = "attachment"  # saves it


@dataclass(frozen=True)
class Download:
    """How a browser shall treat an object: by which name to save it, as which type."""

    filename: str
    content_type: str
    disposition: Disposition = Disposition.INLINE

    @property
    def content_disposition(self) -> str:
        """The header; it saves under the file name, whatever letters are in it."""
        plain = "".join(c if c.isascii() and (c.isalnum() or c in "._- ") else "_" for c in self.filename)
        return f"{self.disposition}; filename=\"{plain}\"; filename*=UTF-8''{quote(self.filename, safe='')}"


class Storage(Protocol):
    def presign_put(
        self, key: str, *, content_type: str, size_bytes: int | None, lifetime: dt.timedelta
    ) -> PresignedPut: ...

    def presign_get(self, key: str, *, download: Download, lifetime: dt.timedelta) -> str: ...

    def size_of(self, key: str) -> int | None:
        """Bytes of an object; None when it does not exist. Raises StorageUnavailableError."""
        ...

    @property
    def origin(self) -> str | None:
        """Scheme and host that its links lead to; None: this API itself."""
        ...


def open_storage(settings: CommonSettings) -> Storage:
    if settings.storage_directory is not None:
        assert settings.storage_secret is not None, "the settings check it"
        signed = SignedUrls(settings.storage_secret.get_secret_value().encode(), base_url=settings.public_url)
        return LocalStorage(settings.storage_directory, signed)
    assert settings.s3_bucket is not None, "the settings check it"
    inner = _s3_client(settings, settings.s3_endpoint_url)
    public = _s3_client(settings, settings.s3_public_endpoint_url or settings.s3_endpoint_url)
    return S3Storage(settings.s3_bucket, client=inner, public_client=public)


class LocalStorage:
    """Objects are files below a directory, by their key."""

    origin = None

    def __init__(self, directory: Path, signed_urls: SignedUrls) -> None:
        self.directory = directory
        self.signed_urls = signed_urls

    def presign_put(
        self, key: str, *, content_type: str, size_bytes: int | None, lifetime: dt.timedelta
    ) -> PresignedPut:
        expires_at = dt.datetime.now(dt.UTC) + lifetime
        url = self.signed_urls.put_url(key, content_type=content_type, size_bytes=size_bytes, expires_at=expires_at)
        return PresignedPut(url=url, headers={"Content-Type": content_type}, expires_at=expires_at)

    def presign_get(self, key: str, *, download: Download, lifetime: dt.timedelta) -> str:
        return self.signed_urls.get_url(
            key,
            disposition=download.content_disposition,
            content_type=download.content_type,
            expires_at=dt.datetime.now(dt.UTC) + lifetime,
        )

    def size_of(self, key: str) -> int | None:
        try:
            return self.path_of(key).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageUnavailableError(f"{type(error).__name__}: {error.strerror}") from error

    def path_of(self, key: str) -> Path:
        """Raises ValueError for a key that would lead out of the directory."""
        parts = key.split("/")
        if parts[0] == INCOMING or any(
            part in ("", ".", "..") or not part.isprintable() or "\\" in part for part in parts
        ):
            raise ValueError(f"not an object key: {key!r}")
        return self.directory.joinpath(*parts)


class S3Storage:
    """Objects of one bucket. Links are signed for the endpoint that clients reach, which may have another name."""

    def __init__(self, bucket: str, *, client: "S3Client", public_client: "S3Client") -> None:
        self._bucket = bucket
        self._client = client
        self._public = public_client

    @property
    def origin(self) -> str:
        sample = urlsplit(self._public.generate_presigned_url("get_object", {"Bucket": self._bucket, "Key": "k"}))
        return f"{sample.scheme}://{sample.netloc}"

    def presign_put(
        self, key: str, *, content_type: str, size_bytes: int | None, lifetime: dt.timedelta
    ) -> PresignedPut:
        parameters: dict[str, object] = {"Bucket": self._bucket, "Key": key, "ContentType": content_type}
        headers = {"Content-Type": content_type}
        if size_bytes is not None:
            parameters["ContentLength"] = size_bytes
            headers["Content-Length"] = str(size_bytes)
        expires_at = dt.datetime.now(dt.UTC) + lifetime
        url = self._public.generate_presigned_url(
            "put_object", parameters, ExpiresIn=int(lifetime.total_seconds()), HttpMethod="PUT"
        )
        return PresignedPut(url=url, headers=headers, expires_at=expires_at)

    def presign_get(self, key: str, *, download: Download, lifetime: dt.timedelta) -> str:
        return self._public.generate_presigned_url(
            "get_object",
            {
                "Bucket": self._bucket,
                "Key": key,
                "ResponseContentDisposition": download.content_disposition,
                "ResponseContentType": download.content_type,
            },
            ExpiresIn=int(lifetime.total_seconds()),
            HttpMethod="GET",
        )

    def size_of(self, key: str) -> int | None:
        try:
            return self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"]
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise StorageUnavailableError(str(error)) from error
        except BotoCoreError as error:
            raise StorageUnavailableError(str(error)) from error


def _s3_client(settings: CommonSettings, endpoint_url: str | None) -> "S3Client":
    secret = settings.s3_secret_access_key
    # a client of its own session: the default session is shared and not safe to build clients from in threads
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint_url,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=None if secret is None else secret.get_secret_value(),
        config=Config(
            signature_version="s3v4",
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"total_max_attempts": 2},
            s3={"addressing_style": "path" if endpoint_url else "auto"},
            # other S3 servers than Amazon's need not know the newer checksum headers
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
