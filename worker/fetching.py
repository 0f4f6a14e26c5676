"""Brings an input of a job onto this machine: from the storage, an allowed bucket, or an https URL.

Knows where inputs may come from. Knows nothing of what is in them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from models.object_keys import upload_key
from models.settings import CommonSettings
from worker.outbound import AddressPolicy, Client, OutboundError, RefusedByServer, TooLarge, UnsafeUrl
from worker.storage import (
    AccessRefused,
    ObjectMissing,
    ObjectTooLarge,
    Storage,
    StorageError,
    open_input_buckets,
    open_storage,
)

_UPLOAD_ID = re.compile(r"[A-Za-z0-9_]{1,64}")
_GONE = frozenset({404, 410})


class InputErrorCode(StrEnum):
    MISSING = "input_missing"  # nothing is there (any more)
    TOO_LARGE = "input_too_large"
    REFUSED = "input_refused"  # the place where it lies does not give it to us
    UNREACHABLE = "input_unreachable"  # no answer, or a broken one: another try may help
    URL_FORBIDDEN = "url_forbidden"  # not a place this installation fetches from


class InputError(Exception):
    """An input cannot be had. The message is for the person who sent the job."""

    def __init__(self, code: InputErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def retryable(self) -> bool:
        return self.code is InputErrorCode.UNREACHABLE


class InputGone(InputError):
    """The input does not exist, or does not exist any more."""

    def __init__(self, message: str) -> None:
        super().__init__(InputErrorCode.MISSING, message)


@dataclass(frozen=True)
class FetchLimits:
    max_bytes: int = 2 * 1024**3
    timeout_s: float = 600.0


@dataclass(frozen=True)
class InputPlaces:
    """Where inputs may come from: the installation's storage, the allowed buckets by name, the web."""

    storage: Storage
    buckets: Mapping[str, Storage]
    web: Client

    @classmethod
    def of(cls, settings: CommonSettings) -> "InputPlaces":
        policy = AddressPolicy.ANY if settings.allow_http_urls else AddressPolicy.PUBLIC
        return cls(storage=open_storage(settings), buckets=open_input_buckets(settings), web=Client(policy))


def fetch(source: str, places: InputPlaces, *, tenant_id: str, into: Path, limits: FetchLimits) -> Path:
    """Write the input that `source` names to the file `into`, which must not exist, and return that path.

    `source` is `upload:<id>` (of this tenant), `s3://bucket/key` or an `https://` URL. The file has no name or type of
    the sender's. Raises InputError or InputGone, after which nothing is left at `into`; OSError when this disk fails.
    """
    kind, _, rest = source.partition(":")
    if kind == "upload":
        _fetch_upload(rest, places.storage, tenant_id=tenant_id, into=into, limits=limits)
    elif kind == "s3":
        _fetch_from_bucket(rest, places.buckets, into=into, limits=limits)
    else:
        _fetch_from_web(source, places.web, into=into, limits=limits)
    return into


def _fetch_upload(upload_id: str, storage: Storage, *, tenant_id: str, into: Path, limits: FetchLimits) -> None:
    if not _UPLOAD_ID.fullmatch(upload_id):
        raise InputGone("There is no such upload.")
    key = upload_key(tenant_id=tenant_id, upload_id=upload_id)
    name = f"The upload {upload_id}"
    try:
        _download(storage, key, name=name, into=into, limits=limits)
    except AccessRefused as error:
        # the installation's own storage: its operator's to mend, not the sender's
        raise InputError(InputErrorCode.UNREACHABLE, f"{name} could not be read from the storage.") from error


def _fetch_from_bucket(rest: str, buckets: Mapping[str, Storage], *, into: Path, limits: FetchLimits) -> None:
    bucket, _, key = rest.removeprefix("//").partition("/")
    if bucket not in buckets:
        raise InputError(InputErrorCode.URL_FORBIDDEN, f"The bucket {bucket!r} is not one that inputs may come from.")
    name = f"The object s3://{bucket}/{key}"
    try:
        _download(buckets[bucket], key, name=name, into=into, limits=limits)
    except ValueError as error:
        raise InputGone(f"{name} does not exist: its key is not valid.") from error
    except AccessRefused as error:
        raise InputError(InputErrorCode.REFUSED, f"{name} may not be read by this installation.") from error


def _download(storage: Storage, key: str, *, name: str, into: Path, limits: FetchLimits) -> None:
    try:
        storage.download(key, into, max_bytes=limits.max_bytes)
    except ObjectMissing as error:
        raise InputGone(f"{name} does not exist, or was deleted.") from error
    except ObjectTooLarge as error:
        raise _too_large(name, limits) from error
    except AccessRefused:
        raise
    except StorageError as error:
        raise InputError(InputErrorCode.UNREACHABLE, f"{name} could not be read from the storage.") from error


def _fetch_from_web(url: str, web: Client, *, into: Path, limits: FetchLimits) -> None:
    try:
        web.download(url, into, max_bytes=limits.max_bytes, timeout_s=limits.timeout_s)
    except UnsafeUrl as error:
        raise InputError(InputErrorCode.URL_FORBIDDEN, str(error)) from error
    except TooLarge as error:
        raise _too_large("The file at the URL", limits) from error
    except RefusedByServer as error:
        if error.status in _GONE:
            raise InputGone(f"There is no file at the URL: {error}") from error
        code = InputErrorCode.UNREACHABLE if error.retryable else InputErrorCode.REFUSED
        raise InputError(code, f"The file at the URL could not be had: {error}") from error
    except OutboundError as error:
        raise InputError(InputErrorCode.UNREACHABLE, f"The file at the URL could not be had: {error}") from error


def _too_large(name: str, limits: FetchLimits) -> InputError:
    return InputError(
        InputErrorCode.TOO_LARGE,
        f"{name} is larger than the {limits.max_bytes} bytes that are allowed. Send a shorter or a compressed file.",
    )
