"""Settings that every process shares: where the record, the queue and the storage are.

Knows environment variables. Read once at an entry point and passed down.
"""

from pathlib import Path

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class CommonSettings(BaseSettings):
    """Where Postgres, Redis and the object storage are.

    Storage is either an S3 bucket (`REALVIDEO_S3_BUCKET`) or a local directory (`REALVIDEO_STORAGE_DIRECTORY`), whose
    URLs the API signs with `REALVIDEO_STORAGE_SECRET` and serves itself.
    """

    model_config = SettingsConfigDict(env_prefix="REALVIDEO_", extra="ignore", populate_by_name=True)

    database_url: str = Field(validation_alias="DATABASE_URL")
    broker_url: str = Field(validation_alias="BROKER_URL")

    s3_bucket: str | None = None
    s3_endpoint_url: str | None = None
    s3_public_endpoint_url: str | None = Field(
        default=None, description="the endpoint as browsers reach it, when it differs from the workers'"
    )
    s3_region: str = "us-east-1"
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None
    s3_allowed_input_buckets: tuple[str, ...] = ()

    storage_directory: Path | None = None
    storage_secret: SecretStr | None = None
    public_url: str = Field(default="http://127.0.0.1:8000", description="base of the links the API gives out")

    allow_http_urls: bool = Field(
        default=False,
        description="accept http:// and private addresses for inputs and webhooks (development only)",
    )

    @model_validator(mode="after")
    def _one_storage(self) -> "CommonSettings":
        if (self.s3_bucket is None) == (self.storage_directory is None):
            raise ValueError("set exactly one of REALVIDEO_S3_BUCKET and REALVIDEO_STORAGE_DIRECTORY")
        if self.storage_directory is not None and self.storage_secret is None:
            raise ValueError("REALVIDEO_STORAGE_DIRECTORY needs REALVIDEO_STORAGE_SECRET to sign its URLs")
        return self
