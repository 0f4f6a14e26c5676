"""A storage that is an S3 bucket: of Amazon's, or of any server that speaks its protocol.

Every byte is covered by an MD5 the server checks while it receives (the one checksum that every S3 server knows), and
the object is asked for its size and checksum afterwards.
"""

import base64
import hashlib
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from botocore.exceptions import BotoCoreError, ClientError

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
from worker.storage.s3_connection import BrokenOff, s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

PART_BYTES = 16 * 1024 * 1024
DOWNLOAD_TRIES = 3
_DIGEST = "sha256"  # the name of the object's own metadata


class S3Storage:
    """The objects of one bucket. Safe to share between threads."""

    def __init__(self, bucket: str, *, client: "S3Client", part_bytes: int = PART_BYTES) -> None:
        self._bucket = bucket
        self._client = client
        self._part_bytes = part_bytes

    def upload(self, path: Path, key: str, *, content_type: str) -> StoredObject:
        check_key(key)
        size_bytes = path.stat().st_size
        digest = sha256_of(path)
        with s3_errors(key):
            if size_bytes <= self._part_bytes:
                etag = self._put(path, key, content_type=content_type, digest=digest)
            else:
                etag = self._put_in_parts(path, key, content_type=content_type, digest=digest)
            self._verify(key, size_bytes=size_bytes, digest=digest, etag=etag)
        return StoredObject(key=key, size_bytes=size_bytes, sha256=digest)

    def download(self, key: str, path: Path, *, max_bytes: int) -> StoredObject:
        check_key(key)
        with path.open("xb") as file:
            try:
                return self._receive_patiently(key, file, max_bytes=max_bytes)
            except BaseException:
                path.unlink(missing_ok=True)
                raise

    def stat(self, key: str) -> StoredObject:
        check_key(key)
        with s3_errors(key):
            head = self._client.head_object(Bucket=self._bucket, Key=key)
        return StoredObject(key=key, size_bytes=head["ContentLength"], sha256=head["Metadata"].get(_DIGEST))

    def delete_prefix(self, prefix: str) -> int:
        count = 0
        for keys in self.pages(prefix):
            for key in keys:
                self.delete(key)
            count += len(keys)
        return count

    def delete(self, key: str) -> None:
        check_key(key)
        with s3_errors(key):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def pages(self, prefix: str) -> Iterator[list[str]]:
        check_prefix(prefix)
        paginator = self._client.get_paginator("list_objects_v2")
        with s3_errors(prefix):
            for page in paginator.paginate(
                Bucket=self._bucket, Prefix=prefix, PaginationConfig={"PageSize": PAGE_KEYS}
            ):
                yield [entry["Key"] for entry in page.get("Contents", [])]

    def unfinished_uploads(self) -> Iterator[UnfinishedUpload]:
        paginator = self._client.get_paginator("list_multipart_uploads")
        with s3_errors("the unfinished uploads"):
            for page in paginator.paginate(Bucket=self._bucket):
                for entry in page.get("Uploads", []):
                    yield UnfinishedUpload(key=entry["Key"], started_at=entry["Initiated"], reference=entry["UploadId"])

    def abandon(self, upload: UnfinishedUpload) -> None:
        assert upload.key is not None, "a bucket knows it"
        try:
            with s3_errors(upload.key):
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=upload.key, UploadId=upload.reference)
        except ObjectMissing:
            return  # it was completed, or given up by its own uploader

    def _put(self, path: Path, key: str, *, content_type: str, digest: str) -> str:
        """Returns the ETag that a server without encryption gives: the MD5 of the bytes."""
        data = path.read_bytes()
        md5 = _md5(data)
        self._client.put_object(
            Bucket=self._bucket,
            Key=key,
            Body=data,
            ContentMD5=base64.b64encode(md5).decode(),
            ContentType=content_type,
            Metadata={_DIGEST: digest},
        )
        return md5.hex()

    def _put_in_parts(self, path: Path, key: str, *, content_type: str, digest: str) -> str:
        """Returns the ETag of an object in parts: the MD5 of their MD5s, and their number."""
        upload_id = self._client.create_multipart_upload(
            Bucket=self._bucket, Key=key, ContentType=content_type, Metadata={_DIGEST: digest}
        )["UploadId"]
        parts: list[CompletedPartTypeDef] = []
        md5s = b""
        try:
            with path.open("rb") as file:
                while data := file.read(self._part_bytes):
                    md5 = _md5(data)
                    answer = self._client.upload_part(
                        Bucket=self._bucket,
                        Key=key,
                        UploadId=upload_id,
                        PartNumber=len(parts) + 1,
                        Body=data,
                        ContentMD5=base64.b64encode(md5).decode(),
                    )
                    parts.append({"PartNumber": len(parts) + 1, "ETag": answer["ETag"]})
                    md5s += md5
            self._complete(key, upload_id, parts)
        except BaseException:
            self._abandon(key, upload_id)
            raise
        return f"{_md5(md5s).hex()}-{len(parts)}"

    def _complete(self, key: str, upload_id: str, parts: "list[CompletedPartTypeDef]") -> None:
        try:
            self._client.complete_multipart_upload(
                Bucket=self._bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}
            )
        except ClientError as error:
            if error.response["Error"].get("Code") != "NoSuchUpload":
                raise
            # the answer to an earlier try was lost; whether the object is there and whole is verified in any case

    def _abandon(self, key: str, upload_id: str) -> None:
        """Parts of an upload that failed cost money until somebody deletes them."""
        try:
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload_id)
        except (ClientError, BotoCoreError):
            return  # the upload's own error is the one to report; the collector finds the parts

    def _verify(self, key: str, *, size_bytes: int, digest: str, etag: str) -> None:
        """Raises StorageError unless the bucket holds exactly the bytes that were sent."""
        head = self._client.head_object(Bucket=self._bucket, Key=key)
        if head["ContentLength"] != size_bytes:
            raise StorageError(f"{key} was stored with {head['ContentLength']} of {size_bytes} bytes.")
        if head["ETag"].strip('"') == etag:
            return
        # encrypted buckets give other ETags: only reading the object tells
        with Path(os.devnull).open("wb") as nowhere:
            if self._receive(key, nowhere, max_bytes=size_bytes).sha256 != digest:
                raise StorageError(f"{key} was not stored as it was sent.")

    def _receive_patiently(self, key: str, file: BinaryIO, *, max_bytes: int) -> StoredObject:
        for tries_left in reversed(range(DOWNLOAD_TRIES)):
            try:
                with s3_errors(key):
                    return self._receive(key, file, max_bytes=max_bytes)
            except BrokenOff:
                if tries_left == 0:
                    raise
                file.seek(0)
                file.truncate()
        raise AssertionError("the last try returns or raises")

    def _receive(self, key: str, file: BinaryIO, *, max_bytes: int) -> StoredObject:
        answer = self._client.get_object(Bucket=self._bucket, Key=key)
        digest = hashlib.sha256()
        # `with body` would give the stream inside it, which does not notice a short answer
        with closing(answer["Body"]) as body:
            if answer["ContentLength"] > max_bytes:
                raise ObjectTooLarge(f"{key} has {answer['ContentLength']} bytes; at most {max_bytes} are allowed.")
            while chunk := body.read(CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
        if answer["Metadata"].get(_DIGEST, digest.hexdigest()) != digest.hexdigest():
            raise BrokenOff(f"{key} is not what was stored under this key.")
        return StoredObject(key=key, size_bytes=answer["ContentLength"], sha256=digest.hexdigest())


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()
