"""Jobs that workers began, as the API sees them."""

from models.database import Database
from models.job import Job
from models.transitions import claim, retry_later


def begin_again(database: Database, job_id: str, *, times: int) -> None:
    """So many tries fail for a while; the next one is under way."""
    for attempt in range(1, times + 2):
        with database.transaction() as session:
            job = session.get_one(Job, job_id)
            job.run_after = job.created_at  # now, not after the pause
            session.flush()
            assert claim(session, job_id, worker=f"gpu-{attempt}", preset=job.preset) is not None
        if attempt <= times:
            message = f"no answer {attempt}"
            with database.transaction() as session:
                assert retry_later(session, job_id, attempt=attempt, code="storage_down", message=message)
