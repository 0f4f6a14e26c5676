"""Objects by their keys: what a worker reads and writes, in an S3 bucket or a local directory.

Knows keys, files and checksums. Knows no job, no URL and no presigning (that is the API's).
"""

from models.settings import CommonSettings
from worker.storage.contract import (
    AccessRefused,
    ObjectMissing,
    ObjectTooLarge,
    Storage,
    StorageError,
    StoredObject,
    UnfinishedUpload,
)
from worker.storage.local import LocalStorage
from worker.storage.s3 import S3Storage
from worker.storage.s3_connection import s3_client

__all__ = [
    "AccessRefused",
    "LocalStorage",
    "ObjectMissing",
    "ObjectTooLarge",
    "S3Storage",
    "Storage",
    "StorageError",
    "StoredObject",
    "UnfinishedUpload",
    "open_input_buckets",
    "open_storage",
]


def open_storage(settings: CommonSettings) -> Storage:
    """The storage of this installation's uploads and outputs. Opens no connection yet."""
    if settings.storage_directory is not None:
        return LocalStorage(settings.storage_directory)
    assert settings.s3_bucket is not None, "the settings check it"
    return S3Storage(settings.s3_bucket, client=s3_client(settings))


def open_input_buckets(settings: CommonSettings) -> dict[str, Storage]:
    """The buckets that `s3://` inputs may name, by name.

    Raises ValueError when the installation's own bucket is among them: it holds every tenant's objects.
    """
    if settings.s3_bucket in settings.s3_allowed_input_buckets:
        raise ValueError(f"{settings.s3_bucket} holds every tenant's objects and cannot be a bucket of inputs")
    if not settings.s3_allowed_input_buckets:
        return {}
    client = s3_client(settings)
    return {bucket: S3Storage(bucket, client=client) for bucket in settings.s3_allowed_input_buckets}
