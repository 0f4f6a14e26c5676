"""`realvideo create-bucket` against a real S3 server."""

import os
import subprocess
import sys
import uuid
from typing import Any

from tests.servers.swift import S3Server


def test_the_bucket_is_made_once_and_a_second_run_changes_nothing(s3_server: S3Server, s3_client: Any) -> None:
    bucket = f"made-{uuid.uuid4().hex[:12]}"
    for _ in range(2):
        answered = create_bucket(s3_server, bucket=bucket, secret=s3_server.secret_access_key)
        assert answered.returncode == 0, answered.stderr
    s3_client.head_bucket(Bucket=bucket)


def test_a_wrong_secret_is_a_sentence(s3_server: S3Server) -> None:
    answered = create_bucket(s3_server, bucket="never-made", secret="wrong")
    assert answered.returncode == 3
    assert "the storage made no bucket" in answered.stderr
    assert "Traceback" not in answered.stderr


def create_bucket(server: S3Server, *, bucket: str, secret: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "create-bucket"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            **os.environ,
            "REALVIDEO_S3_BUCKET": bucket,
            "REALVIDEO_S3_ENDPOINT_URL": server.endpoint_url,
            "REALVIDEO_S3_ACCESS_KEY_ID": server.access_key_id,
            "REALVIDEO_S3_SECRET_ACCESS_KEY": secret,
        },
    )
