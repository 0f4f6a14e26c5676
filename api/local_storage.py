"""Serves a local storage directory by signed URLs, as a bucket serves presigned ones. Knows files; knows no job."""

import contextlib
import datetime as dt
import os
import secrets
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from api.errors import ApiError, ErrorCode
from api.local_urls import ExpiredError, Grant, InvalidSignatureError
from api.ranges import ByteRange, UnsatisfiableError, parse_range
from api.services import InjectedServices, Services
from api.storage import INCOMING, LocalStorage

CHUNK_BYTES = 256 * 1024
WRITE_BYTES = 1024 * 1024

router = APIRouter(include_in_schema=False)


@router.put("/storage/{key:path}")
async def put_object(key: str, request: Request, services: InjectedServices) -> Response:
    """Store the body: whole or not at all. 403 for a URL that is not valid, 413 over the signed or the general size."""
    storage = _local(services)
    grant = _granted(storage, "PUT", key, request)
    if request.headers.get("content-type", "") != grant.content_type:
        raise ApiError(ErrorCode.invalid_signature, f"The URL was signed for the type {grant.content_type}.")
    limit = services.settings.max_upload_bytes if grant.size_bytes is None else grant.size_bytes
    if int(request.headers.get("content-length", "0")) > limit:
        raise _too_large(limit)
    target = _path(storage, key)
    incoming = storage.directory / INCOMING / secrets.token_hex(16)
    await run_in_threadpool(_make_directories, incoming.parent, target.parent)
    try:
        received = await _receive(request, incoming, limit=limit)
        if grant.size_bytes is not None and received != grant.size_bytes:
            raise ApiError(
                ErrorCode.malformed_request, f"{grant.size_bytes} bytes were announced and {received} received."
            )
        await run_in_threadpool(os.replace, incoming, target)
    except ClientDisconnect:
        return Response(status_code=ErrorCode.malformed_request.value.status)  # nobody is there to read it
    finally:
        await run_in_threadpool(incoming.unlink, missing_ok=True)
    return Response(status_code=200)


@router.get("/storage/{key:path}")
@router.head("/storage/{key:path}")
def get_object(key: str, request: Request, services: InjectedServices) -> Response:
    """The object or a range of it. A URL for GET is good for HEAD too."""
    storage = _local(services)
    grant = _granted(storage, "GET", key, request)
    try:
        file = _path(storage, key).open("rb")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ApiError(ErrorCode.not_found, "There is no such object.") from None
    stat = os.fstat(file.fileno())
    etag = f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'
    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=3600",
        "Content-Type": grant.content_type,
        "ETag": etag,
        "Last-Modified": formatdate(stat.st_mtime, usegmt=True),
    }
    if grant.disposition is not None:
        headers["Content-Disposition"] = grant.disposition
    if _matches(request.headers.get("if-none-match"), etag):
        file.close()
        return Response(status_code=304, headers=headers)
    try:
        wanted = _wanted_range(request, etag=etag, size=stat.st_size)
    except UnsatisfiableError:
        file.close()
        raise ApiError(
            ErrorCode.range_not_satisfiable,
            f"The object has {stat.st_size} bytes.",
            headers={"Content-Range": f"bytes */{stat.st_size}"},
        ) from None
    part = wanted or ByteRange(0, stat.st_size - 1)
    headers["Content-Length"] = str(part.length)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {part.first}-{part.last}/{stat.st_size}"
    status = 200 if wanted is None else 206
    if request.method == "HEAD":
        file.close()
        return Response(status_code=status, headers=headers)
    return PartOfFile(file, part, status_code=status, headers=headers)


class PartOfFile(StreamingResponse):
    """Closes the file however it ends: a client may be gone before the first byte is read."""

    def __init__(self, file: BinaryIO, part: ByteRange, *, status_code: int, headers: dict[str, str]) -> None:
        super().__init__(_read(file, part), status_code=status_code, headers=headers)
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()


def remove_stale_uploads(directory: Path, *, older_than: dt.timedelta) -> None:
    """Delete what uploads left that were broken off by the end of a process."""
    limit = (dt.datetime.now(dt.UTC) - older_than).timestamp()
    for file in (directory / INCOMING).glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process removes them too
            if file.stat().st_mtime < limit:
                file.unlink()


def _local(services: Services) -> LocalStorage:
    if not isinstance(services.storage, LocalStorage):
        raise ApiError(ErrorCode.not_found, "This installation keeps its objects in a bucket.")
    return services.storage


def _granted(storage: LocalStorage, method: str, key: str, request: Request) -> Grant:
    query = request.query_params.multi_items()
    try:
        return storage.signed_urls.check(method, key, query, now=dt.datetime.now(dt.UTC))
    except InvalidSignatureError:
        raise ApiError(ErrorCode.invalid_signature) from None
    except ExpiredError:
        raise ApiError(ErrorCode.url_expired) from None


def _path(storage: LocalStorage, key: str) -> Path:
    """Where the object lies. Even behind a valid signature a key must not lead out of the directory, links included."""
    try:
        path = storage.path_of(key)
        path.resolve().relative_to(storage.directory.resolve())
    except ValueError:
        raise ApiError(ErrorCode.not_found, "There is no such object.") from None
    return path


def _make_directories(*directories: Path) -> None:
    for directory in directories:
        directory.mkdir(parents=True, exist_ok=True)


async def _receive(request: Request, path: Path, *, limit: int) -> int:
    """Write the body to `path`, on disk when this returns; gives the bytes received. Never more than `limit`."""
    received = 0
    waiting = bytearray()
    file = await run_in_threadpool(path.open, "xb")
    try:
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit:
                raise _too_large(limit)
            waiting += chunk
            if len(waiting) >= WRITE_BYTES:
                await run_in_threadpool(file.write, bytes(waiting))
                waiting.clear()
        await run_in_threadpool(_finish, file, bytes(waiting))
    finally:
        await run_in_threadpool(file.close)
    return received


def _finish(file: BinaryIO, rest: bytes) -> None:
    file.write(rest)
    file.flush()
    os.fsync(file.fileno())


def _too_large(limit: int) -> ApiError:
    return ApiError(ErrorCode.body_too_large, f"At most {limit} bytes are taken.", headers={"Connection": "close"})


def _matches(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    offered = [value.strip().removeprefix("W/") for value in header.split(",")]
    return "*" in offered or etag in offered


def _wanted_range(request: Request, *, etag: str, size: int) -> ByteRange | None:
    if_range = request.headers.get("if-range")
    if if_range is not None and if_range != etag:
        return None  # the object changed since the first part was read
    return parse_range(request.headers.get("range"), size=size)


def _read(file: BinaryIO, part: ByteRange) -> Iterator[bytes]:
    file.seek(part.first)
    left = part.length
    while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
        left -= len(chunk)
        yield chunk
