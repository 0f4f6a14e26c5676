"""The OpenAPI description tells the truth: schemathesis, driven through its own command, finds nothing."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from models.database import Database
from models.job import Job
from models.object_keys import OutputName, output_key
from models.tenant import Tenant
from models.transitions import OutputKeys, claim, succeed
from models.webhook import WebhookDelivery, WebhookEndpoint
from models.worker_node import WorkerNode
from tests import factories
from tests.integration.api.running import RunningApi

TIMEOUT_S = 100
EXAMPLES = 10
# a body that fits the schema may still name an upload, batch or bucket that does not exist, and is refused for it
NOT_CHECKED = "positive_data_acceptance"

CONFIG = """
[parameters]
"path.job_id" = "{job}"
"path.upload_id" = "{upload}"
"path.endpoint_id" = "{endpoint}"
"path.delivery_id" = "{delivery}"
"path.name" = "gpu-1"

[[operations]]
include-name = "DELETE /v1/webhook-endpoints/{{endpoint_id}}"
parameters = {{ "path.endpoint_id" = "{other_endpoint}" }}

[[operations]]
include-name = "POST /v1/jobs/{{job_id}}/retry"
parameters = {{ "path.job_id" = "{canceled_job}" }}

[[operations]]
include-name = "POST /v1/jobs/{{job_id}}/cancel"
parameters = {{ "path.job_id" = "{canceled_job}" }}
"""


@pytest.fixture
def config(
    tmp_path: Path,
    client: httpx.Client,
    database: Database,
    tenant: Tenant,
    make_job: Callable[..., Job],
    make_endpoint: Callable[..., WebhookEndpoint],
) -> Path:
    """Names things that exist, one of each kind, so that more than refusals are looked at."""
    endpoint, other_endpoint = make_endpoint(), make_endpoint()
    job, canceled_job = make_job(), make_job()
    client.post(f"/v1/jobs/{canceled_job.id}/cancel").raise_for_status()
    with database.transaction() as session:
        claimed = claim(session, job.id, worker="gpu-1", preset="tiny")
        assert claimed is not None
        key = output_key(OutputName.VIDEO, tenant_id=tenant.id, job_id=job.id, attempt=claimed.attempt)
        keys = OutputKeys(video=key, poster=key.replace(OutputName.VIDEO, OutputName.POSTER))
        assert succeed(
            session, job.id, attempt=claimed.attempt, keys=keys, output=factories.OUTPUT, metrics=factories.METRICS
        )
        delivery = session.query(WebhookDelivery).filter_by(endpoint_id=endpoint.id).first()
        assert delivery is not None
        session.add(
            WorkerNode(
                name="gpu-1", state="ready", preset="tiny", ranks=1, devices=[{"name": "cpu"}], version="1",
                last_seen_at=job.created_at,
            )
        )  # fmt: skip
    upload = client.post("/v1/uploads", json={"filename": "voice.wav"}).json()["id"]
    file = tmp_path / "schemathesis.toml"
    file.write_text(
        CONFIG.format(
            job=job.id, canceled_job=canceled_job.id, upload=upload, endpoint=endpoint.id,
            other_endpoint=other_endpoint.id, delivery=delivery.id,
        )
    )  # fmt: skip
    return file


def test_schemathesis_finds_nothing(api: RunningApi, make_key: Callable[..., str], config: Path) -> None:
    answer = subprocess.run(
        [
            str(Path(sys.executable).with_name("st")),
            "--config-file",
            str(config),
            "run",
            f"{api.url}/openapi.json",
            f"--header=Authorization: Bearer {make_key()}",
            f"--exclude-checks={NOT_CHECKED}",
            "--phases=examples,coverage,fuzzing",
            f"--max-examples={EXAMPLES}",
            "--seed=1",
            "--request-timeout=10",
            "--continue-on-failure",
        ],
        cwd=config.parent,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )

    assert answer.returncode == 0, answer.stdout[-8000:] + answer.stderr[-2000:]
