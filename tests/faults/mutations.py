"""Guards of the product, each switched off by name in the processes under test: the suite has to notice.

`python -m tests.faults.mutants` runs the test that stands for each. Applied by `armed.py` before anything of the
process runs; patches here are the only ones there are.
"""

import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, event, text
from sqlalchemy.orm import Session

from models import transitions
from models.job import Job, JobStatus
from worker import reconciler
from worker.storage.s3 import S3Storage
from worker.tasks import lease, making, webhooks
from worker.tasks.checkpointing import Checkpointing


@dataclass(frozen=True)
class Mutation:
    guard: str
    without_it: str
    test: str
    """The one that has to fail: `file::test`, below `tests/faults`."""
    apply: Callable[[], None]


def _replace(module: Any, name: str, value: Any) -> Any:
    """Put `value` in place of what the module calls by that name; returns that. A guard by another name is an error."""
    before = getattr(module, name)
    setattr(module, name, value)
    return before


def _rescue_whatever_the_lease_says() -> None:
    def rescue_all(session: Session) -> list[str]:
        session.execute(text("UPDATE jobs SET lease_expires_at = now() - interval '1 s' WHERE status = 'running'"))
        return list(rescue_lost(session))

    rescue_lost = _replace(reconciler, "rescue_lost", rescue_all)


def _never_give_up() -> None:
    _replace(lease, "GIVE_UP_AFTER_S", float("inf"))


def _ignore_the_attempt() -> None:
    def held(job_id: str, attempt: int) -> ColumnElement[bool]:
        return and_(Job.id == job_id, Job.status == JobStatus.RUNNING)

    _replace(transitions, "_held", held)


def _rescue_nobody() -> None:
    _replace(reconciler, "rescue_lost", lambda session: [])


def _publish_once() -> None:
    _replace(reconciler, "take_undispatched", lambda session: [])


def _answer_every_request_anew() -> None:
    from api import jobs

    def create_always(database: Any, identity: Any, create: Callable[[Session], Any]) -> Any:
        with database.transaction() as session:
            return create(session)

    _replace(jobs, "stored_answer", lambda session, identity: None)
    _replace(jobs, "create_once", create_always)


def _write_the_event_after_the_commit() -> None:
    def write_later(session: Session, job: Job) -> None:
        job_id, engine = job.id, session.get_bind()

        def write() -> None:
            time.sleep(0.2)
            with Session(engine) as another, another.begin():
                write_event(another, another.get_one(Job, job_id))

        event.listen(session, "after_commit", lambda _: threading.Thread(target=write).start(), once=True)

    write_event = _replace(transitions, "write_event", write_later)


def _believe_the_storage() -> None:
    _replace(S3Storage, "_verify", lambda self, key, **expected: None)


def _believe_the_disk() -> None:
    _replace(making, "_compare", lambda stored, measured: None)


def _delete_what_a_checkpoint_replaces_before_it_is_recorded() -> None:
    def store(self: Checkpointing, manifest: Any) -> str:
        if self._key is not None:
            self._storage.delete(self._key)
        return str(store_manifest(self, manifest))

    store_manifest = _replace(Checkpointing, "_stored_manifest", store)


def _name_every_try_anew() -> None:
    def with_a_new_id(**named: Any) -> Any:
        return signed_headers(**{**named, "message_id": f"evt_{uuid.uuid4().hex}"})

    signed_headers = _replace(webhooks, "signed_headers", with_a_new_id)


MUTATIONS = {
    "lease": Mutation(
        "lease",
        "jobs are taken from workers that renew their leases",
        "test_broker.py::test_a_wiped_broker_loses_no_job_and_interrupts_no_render",
        _rescue_whatever_the_lease_says,
    ),
    "own-clock": Mutation(
        "lease, by the worker's own clock",
        "a worker that cannot renew goes on drawing",
        "test_record.py::test_a_worker_aborts_by_itself_when_the_record_is_away_for_longer_than_its_lease",
        _never_give_up,
    ),
    "fencing": Mutation(
        "fencing token",
        "a worker's changes are not tied to its attempt",
        "test_zombies.py::test_a_zombie_that_wakes_with_a_finished_video_changes_nothing",
        _ignore_the_attempt,
    ),
    "rescue": Mutation(
        "reconciler",
        "nobody takes jobs from dead workers",
        "test_worker_death.py::test_a_killed_node_leaves_no_process_and_its_job_goes_on_elsewhere",
        _rescue_nobody,
    ),
    "dispatch": Mutation(
        "reconciler",
        "a message is published once",
        "test_zombies.py::test_a_message_that_a_frozen_idle_worker_swallowed_is_sent_again",
        _publish_once,
    ),
    "idempotency": Mutation(
        "idempotency key",
        "a request that is repeated is carried out again",
        "test_duplicates.py::test_a_request_that_is_repeated_makes_one_job",
        _answer_every_request_anew,
    ),
    "outbox": Mutation(
        "outbox",
        "the event is written after the outcome's commit, as if it were sent",
        "test_webhooks.py::test_an_outcome_whose_worker_dies_at_once_is_reported_all_the_same",
        _write_the_event_after_the_commit,
    ),
    "stored": Mutation(
        "checksum of what is stored",
        "an upload that was acknowledged is believed",
        "test_storage.py::test_a_storage_that_acknowledges_an_object_and_loses_it_is_not_believed",
        _believe_the_storage,
    ),
    "measured": Mutation(
        "checksum of what was measured",
        "the file that is uploaded is not compared with the one that was measured",
        "test_storage.py::test_a_file_that_changes_between_measurement_and_upload_is_not_shipped",
        _believe_the_disk,
    ),
    "checkpoint": Mutation(
        "order of a checkpoint's steps",
        "an earlier one is deleted before the one that replaces it is on record",
        "test_checkpoints.py::test_a_worker_killed_around_its_second_checkpoint_costs_what_was_drawn_since_the_last_whole_one",
        _delete_what_a_checkpoint_replaces_before_it_is_recorded,
    ),
    "webhook-id": Mutation(
        "one id per event",
        "each try has an id of its own",
        "test_webhooks.py::test_a_sender_that_dies_before_it_notes_the_answer_sends_the_same_event_again",
        _name_every_try_anew,
    ),
}
