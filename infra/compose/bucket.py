"""Makes the bucket of the compose stack. Knows S3; run once before the services start, harmless to run again."""

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class BucketSettings(BaseSettings):
    """The part of the services' settings that this needs."""

    model_config = SettingsConfigDict(env_prefix="REALVIDEO_", extra="ignore")

    s3_bucket: str
    s3_endpoint_url: str | None = None
    s3_region: str = "us-east-1"
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None


def create() -> None:
    """Raises botocore's errors when the server does not answer or refuses."""
    settings = BucketSettings()
    secret = settings.s3_secret_access_key
    client = boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint_url,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=Config(connect_timeout=5, read_timeout=15, retries={"total_max_attempts": 5}),
    )
    try:
        client.head_bucket(Bucket=settings.s3_bucket)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
            raise
        client.create_bucket(Bucket=settings.s3_bucket)
