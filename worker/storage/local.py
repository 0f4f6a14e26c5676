"""A storage that is a local directory: an object is a file, its key the path below the directory."""

import datetime as dt
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.storage.contract import (
    CHUNK_BYTES,
    PAGE_KEYS,
    ObjectMissing,
    ObjectTooLarge,
    StorageError,
    StoredObject,
    UnfinishedUpload,
    check_key,
    check_prefix,
    sha256_of,
)

INCOMING = ".incoming"


class LocalStorage:
    """Objects below `directory`. Half-written ones lie in `.incoming` and never under a key."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def upload(self, path: Path, key: str, *, content_type: str) -> StoredObject:
        del content_type  # a directory keeps none; the API says it when it serves the file
        target = self._path(key)
        incoming = self._directory / INCOMING / secrets.token_hex(16)
        wanted = sha256_of(path)
        with _disk_errors(key):
            incoming.parent.mkdir(parents=True, exist_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with path.open("rb") as source, incoming.open("xb") as file:
                    shutil.copyfileobj(source, file, CHUNK_BYTES)
                    file.flush()
                    os.fsync(file.fileno())
                if sha256_of(incoming) != wanted:
                    raise StorageError(f"{key} was not stored as it was written.")
                size_bytes = incoming.stat().st_size
                incoming.replace(target)
                _sync_directory(target.parent)
            finally:
                incoming.unlink(missing_ok=True)
        return StoredObject(key=key, size_bytes=size_bytes, sha256=wanted)

    def download(self, key: str, path: Path, *, max_bytes: int) -> StoredObject:
        self.stat(key)
        digest = hashlib.sha256()
        with _disk_errors(key), self._path(key).open("rb") as source:
            size_bytes = os.fstat(source.fileno()).st_size
            if size_bytes > max_bytes:
                raise ObjectTooLarge(f"{key} has {size_bytes} bytes; at most {max_bytes} are allowed.")
            with path.open("xb") as file:
                try:
                    while chunk := source.read(CHUNK_BYTES):
                        digest.update(chunk)
                        file.write(chunk)
                except BaseException:
                    path.unlink(missing_ok=True)
                    raise
        return StoredObject(key=key, size_bytes=size_bytes, sha256=digest.hexdigest())

    def stat(self, key: str) -> StoredObject:
        path = self._path(key)
        with _disk_errors(key):
            if not path.is_file():
                raise ObjectMissing(f"There is no object {key}.")
            return StoredObject(key=key, size_bytes=path.stat().st_size, sha256=None)

    def delete_prefix(self, prefix: str) -> int:
        check_prefix(prefix)
        directory = self._path(prefix.removesuffix("/"))
        with _disk_errors(prefix):
            count = sum(1 for path in directory.rglob("*") if path.is_file())
            if directory.is_dir():
                shutil.rmtree(directory)
        return count

    def delete(self, key: str) -> None:
        with _disk_errors(key):
            self._path(key).unlink(missing_ok=True)

    def pages(self, prefix: str) -> Iterator[list[str]]:
        check_prefix(prefix)
        page: list[str] = []
        with _disk_errors(prefix):
            for path in _files_below(self._path(prefix.removesuffix("/"))):
                page.append(path.relative_to(self._directory).as_posix())
                if len(page) == PAGE_KEYS:
                    yield page
                    page = []
        if page:
            yield page

    def unfinished_uploads(self) -> Iterator[UnfinishedUpload]:
        """Their age is that of the last byte written."""
        with _disk_errors(INCOMING):
            for path in _files_below(self._directory / INCOMING):
                try:
                    written_at = dt.datetime.fromtimestamp(path.stat().st_mtime, dt.UTC)
                except FileNotFoundError:
                    continue  # it was completed meanwhile
                yield UnfinishedUpload(key=None, started_at=written_at, reference=path.name)

    def abandon(self, upload: UnfinishedUpload) -> None:
        check_key(upload.reference)
        with _disk_errors(upload.reference):
            (self._directory / INCOMING / upload.reference).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        check_key(key)
        if key.split("/")[0] == INCOMING:
            raise ValueError(f"not an object key: {key!r}")
        return self._directory.joinpath(*key.split("/"))


def _files_below(directory: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # a directory may go while its neighbours are read
            raise error

    for place, _, names in os.walk(directory, onerror=refuse):
        for name in names:
            yield Path(place, name)


@contextmanager
def _disk_errors(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectMissing(f"There is no object {key}.") from error
    except OSError as error:
        raise StorageError(f"The storage directory failed for {key}: {error.strerror}.") from error


def _sync_directory(directory: Path) -> None:
    # the rename itself is only on disk once its directory is
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
