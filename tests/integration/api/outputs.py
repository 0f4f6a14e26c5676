"""Finished jobs for tests: the row of a success and its objects in a local directory."""

from models.database import Database
from models.job import Job
from models.object_keys import OutputName, output_key
from models.output import OutputWarning
from models.transitions import OutputKeys, claim, succeed
from tests import factories
from tests.integration.api.running import RunningApi

VIDEO = bytes(range(256)) * 40
POSTER = b"\xff\xd8 not really a picture"


def finish(database: Database, api: RunningApi, job: Job, *, warnings: tuple[OutputWarning, ...] = ()) -> None:
    """Let a worker succeed with a queued job."""
    with database.transaction() as session:
        claimed = claim(session, job.id, worker="gpu-1", preset="tiny")
        assert claimed is not None
        video, poster = (
            output_key(name, tenant_id=job.tenant_id, job_id=job.id, attempt=claimed.attempt)
            for name in (OutputName.VIDEO, OutputName.POSTER)
        )
        directory = api.settings.storage_directory
        assert directory is not None
        for key, content in ((video, VIDEO), (poster, POSTER)):
            (directory / key).parent.mkdir(parents=True, exist_ok=True)
            (directory / key).write_bytes(content)
        assert succeed(
            session,
            job.id,
            attempt=claimed.attempt,
            keys=OutputKeys(video=video, poster=poster),
            output=factories.OUTPUT.model_copy(update={"size_bytes": len(VIDEO), "warnings": warnings}),
            metrics=factories.METRICS,
        )
