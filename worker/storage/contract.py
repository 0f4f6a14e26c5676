"""What a storage does, and how it can fail. Knows no kind of storage."""

import datetime as dt
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

CHUNK_BYTES = 1024 * 1024
PAGE_KEYS = 1000


class StorageError(Exception):
    """The storage did not do what was asked: not reachable, a broken transfer, a full disk. Trying again may help."""

    retryable: ClassVar[bool] = True


class AccessRefused(StorageError):
    """The credentials are not allowed to do this."""


class ObjectMissing(StorageError):
    """There is no such object."""

    retryable = False


class ObjectTooLarge(StorageError):
    """The object has more bytes than the caller takes."""

    retryable = False


@dataclass(frozen=True)
class StoredObject:
    """An object as the storage holds it."""

    key: str
    size_bytes: int
    sha256: str | None  # hexadecimal; None: the object was not written by a worker and was not read


@dataclass(frozen=True)
class UnfinishedUpload:
    """Bytes that take up room and are no object: an upload that was begun, and neither completed nor given up."""

    key: str | None  # None: the storage does not know where the object was to go
    started_at: dt.datetime
    reference: str  # by which the storage knows it


class Storage(Protocol):
    """Every method raises StorageError when the storage fails, ValueError for a key that is none."""

    def upload(self, path: Path, key: str, *, content_type: str) -> StoredObject:
        """Store a file and verify what arrived: size and SHA-256. The object appears whole or not at all."""
        ...

    def download(self, key: str, path: Path, *, max_bytes: int) -> StoredObject:
        """Write an object to `path`, which must not exist; when this raises, nothing is left there.

        Raises ObjectMissing and ObjectTooLarge.
        """
        ...

    def stat(self, key: str) -> StoredObject:
        """Raises ObjectMissing."""
        ...

    def delete_prefix(self, prefix: str) -> int:
        """Delete every object whose key starts with `prefix`, which ends with a slash; gives their number."""
        ...

    def delete(self, key: str) -> None:
        """Delete one object; one that does not exist is no error."""
        ...

    def pages(self, prefix: str) -> Iterator[list[str]]:
        """The keys that start with `prefix`, which ends with a slash, at most `PAGE_KEYS` at a time, one request each.

        What comes and goes meanwhile is found or not.
        """
        ...

    def unfinished_uploads(self) -> Iterator[UnfinishedUpload]:
        """All of them, in no order."""
        ...

    def abandon(self, upload: UnfinishedUpload) -> None:
        """Free what an unfinished upload takes up; one that is completed or gone is no error."""
        ...


def check_key(key: str) -> None:
    """Raises ValueError for a key that could mean another object, or another file, than it says."""
    parts = key.split("/")
    if any(part in ("", ".", "..") or not part.isprintable() or "\\" in part for part in parts):
        raise ValueError(f"not an object key: {key!r}")


def check_prefix(prefix: str) -> None:
    if not prefix.endswith("/"):
        raise ValueError(f"a prefix to delete must end with a slash: {prefix!r}")
    check_key(prefix.removesuffix("/"))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
