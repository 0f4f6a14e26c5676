"""The services that are configured: do they answer? What is not configured is not asked."""

import contextlib
import os
from pathlib import Path

from cli.checks.finding import Finding, State

TIMEOUT_S = 5


def postgres() -> Finding:
    url = os.environ.get("DATABASE_URL")
    if not url:
        return _unused("Postgres", "DATABASE_URL is not set; run.py brings its own")
    import psycopg
    from sqlalchemy.exc import ArgumentError

    from models.database import psycopg_url

    try:
        plain = psycopg_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(plain, connect_timeout=TIMEOUT_S) as connection:
            row = connection.execute("SHOW server_version").fetchone()
            tables = connection.execute("SELECT to_regclass('jobs') IS NOT NULL").fetchone()
    except (psycopg.Error, ArgumentError) as error:
        return _missing("Postgres", error, "start it, or correct DATABASE_URL")
    assert row is not None
    assert tables is not None
    if not tables[0]:
        return Finding("Postgres", State.MISSING, f"{row[0]}, without our tables", "realvideo migrate")
    return Finding("Postgres", State.OK, str(row[0]))


def broker() -> Finding:
    url = os.environ.get("BROKER_URL")
    if not url:
        return _unused("Redis", "BROKER_URL is not set; run.py brings its own")
    import redis

    try:
        client = redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
        with contextlib.closing(client):
            about = client.info()
    except (redis.RedisError, ValueError, OSError) as error:
        return _missing("Redis", error, "start it, or correct BROKER_URL")
    name = f"{about.get('server_name', 'redis')} {about.get('valkey_version', about['redis_version'])}"
    policy = about.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        mend = "set maxmemory-policy to noeviction: it may drop messages, and they come a minute late"
        return Finding("Redis", State.NOTE, f"{name} with {policy}", mend)
    return Finding("Redis", State.OK, name)


def storage() -> Finding:
    bucket, directory = os.environ.get("REALVIDEO_S3_BUCKET"), os.environ.get("REALVIDEO_STORAGE_DIRECTORY")
    if bucket:
        return _s3(bucket)
    if directory:
        return _directory(Path(directory))
    return _unused("storage", "neither REALVIDEO_S3_BUCKET nor REALVIDEO_STORAGE_DIRECTORY is set")


def api() -> Finding:
    from cli.connection import NoConnectionError, find_connection

    try:
        connection = find_connection()
    except NoConnectionError:
        return _unused("API", "REALVIDEO_URL is not set, and no `run.py up` runs here")
    import httpx

    try:
        answer = httpx.get(f"{connection.url}/readyz", timeout=TIMEOUT_S)
    except httpx.HTTPError as error:
        return _missing("API", error, f"start it, or correct REALVIDEO_URL (now {connection.url})")
    if answer.status_code != 200:
        return Finding("API", State.MISSING, f"{connection.url} is not ready: {answer.text[:200]}", "see its log")
    return Finding("API", State.OK, f"{connection.url} is ready")


def _s3(bucket: str) -> Finding:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=os.environ.get("REALVIDEO_S3_ENDPOINT_URL"),
        region_name=os.environ.get("REALVIDEO_S3_REGION", "us-east-1"),
        aws_access_key_id=os.environ.get("REALVIDEO_S3_ACCESS_KEY_ID"),
        aws_secret_access_key=os.environ.get("REALVIDEO_S3_SECRET_ACCESS_KEY"),
        config=Config(connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S, retries={"total_max_attempts": 1}),
    )
    try:
        client.head_bucket(Bucket=bucket)
    except (BotoCoreError, ClientError) as error:
        return _missing("storage", error, f"check REALVIDEO_S3_*, and that the bucket {bucket} exists")
    return Finding("storage", State.OK, f"S3 bucket {bucket} answers")


def _directory(directory: Path) -> Finding:
    if directory.is_dir() and os.access(directory, os.W_OK):
        return Finding("storage", State.OK, f"directory {directory}")
    return Finding("storage", State.MISSING, f"{directory} cannot be written", "make it, owned by this user")


def _unused(name: str, said: str) -> Finding:
    return Finding(name, State.UNUSED, f"not configured: {said}")


def _missing(name: str, error: Exception, mend: str) -> Finding:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return Finding(name, State.MISSING, f"does not answer: {lines[0]}", mend)
