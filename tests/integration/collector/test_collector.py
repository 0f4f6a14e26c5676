"""What the collector deletes, and what it must not: a real record, a real S3 server and a directory."""

import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from models.collected import Collected
from models.database import Database
from models.ids import IdPrefix, new_id
from models.job import Job
from models.object_keys import attempt_prefix, checkpoint_prefix, upload_key
from models.tenant import Tenant
from models.transitions import succeed
from models.upload import Upload
from tests.factories import KEYS, METRICS, OUTPUT
from tests.integration.collector.bucket import Bucket
from tests.integration.models.steps import Steps
from worker.collector import Collector
from worker.storage import LocalStorage, Storage, StorageError, local, open_storage, s3

MakeJob = Callable[..., Job]
MakeUpload = Callable[..., Upload]

WEEK = dt.timedelta(days=7)


@pytest.fixture
def collector(database: Database, storage: Storage) -> Collector:
    return Collector(database, storage, unused_uploads_kept=WEEK)


@pytest.fixture
def make_upload(database: Database, tenant: Tenant) -> MakeUpload:
    """`make_upload(days=0)`: the row of an upload that was announced so long ago."""

    def make(*, days: float) -> Upload:
        upload_id = new_id(IdPrefix.UPLOAD)
        upload = Upload(
            id=upload_id, tenant_id=tenant.id, object_key=upload_key(tenant_id=tenant.id, upload_id=upload_id),
            filename="voice.wav", content_type="audio/wav", size_bytes=7,
            created_at=dt.datetime.now(dt.UTC) - dt.timedelta(days=days),
        )  # fmt: skip
        with database.transaction() as session:
            session.add(upload)
        return upload

    return make


def sweep(collector: Collector) -> None:
    for _ in collector.sweep():
        pass


def let_the_grace_pass(steps: Steps) -> None:
    """Attempts and jobs ended an hour earlier. The trigger keeps ended jobs as they are, so it is put aside."""
    steps.sql("UPDATE attempts SET ended_at = ended_at - interval '1 h'")
    steps.sql("ALTER TABLE jobs DISABLE TRIGGER jobs_guard")
    steps.sql("UPDATE jobs SET finished_at = finished_at - interval '1 h'")
    steps.sql("ALTER TABLE jobs ENABLE TRIGGER jobs_guard")


def test_only_the_winners_outputs_stay(collector: Collector, bucket: Bucket, steps: Steps, make_job: MakeJob) -> None:
    job = make_job()
    assert steps.claim(job.id) == 1
    lost = bucket.put_outputs(job, 1)
    steps.lose_lease(job.id)
    assert steps.claim(job.id) == 2
    won = bucket.put_outputs(job, 2)
    assert steps.succeed(job.id, 2)
    let_the_grace_pass(steps)
    assert bucket.keys == {*lost, *won}
    sweep(collector)
    assert bucket.keys == set(won)


@pytest.mark.parametrize("ending", ["failed", "canceled", "poison"])
def test_nothing_stays_of_a_job_that_gave_no_video(
    collector: Collector, bucket: Bucket, steps: Steps, make_job: MakeJob, ending: str
) -> None:
    job = make_job()
    steps.claim(job.id)
    bucket.put_outputs(job, 1)
    if ending == "failed":
        steps.fail(job.id, 1)
    elif ending == "canceled":
        steps.request_cancel(job.id, job.tenant_id)
        steps.confirm_cancel(job.id, 1)
    else:
        for attempt in (1, 2, 3):
            bucket.put_outputs(job, attempt)
            steps.record_crash(job.id, attempt)
            steps.claim(job.id)
    let_the_grace_pass(steps)
    sweep(collector)
    assert bucket.keys == set()


def test_a_running_attempt_keeps_everything_and_the_ones_before_it_nothing(
    collector: Collector, bucket: Bucket, steps: Steps, make_job: MakeJob
) -> None:
    job = make_job()
    steps.claim(job.id)
    bucket.put_outputs(job, 1)
    steps.hand_back(job.id, 1)
    steps.claim(job.id)
    running = [*bucket.put_outputs(job, 2), *bucket.put_checkpoints(job)]
    let_the_grace_pass(steps)
    sweep(collector)
    assert bucket.keys == set(running)


def test_the_job_decides_whether_an_attempt_is_over_and_not_the_note_that_it_ended(
    collector: Collector, bucket: Bucket, steps: Steps, make_job: MakeJob
) -> None:
    job = make_job()
    steps.claim(job.id)
    running = bucket.put_outputs(job, 1)
    steps.sql("UPDATE attempts SET ended_at = now() - interval '1 h'")
    sweep(collector)
    assert bucket.keys == set(running)


def test_what_ended_just_now_is_left_alone_for_the_grace(
    collector: Collector, bucket: Bucket, steps: Steps, make_job: MakeJob
) -> None:
    job = make_job()
    steps.claim(job.id)
    both = {*bucket.put_outputs(job, 1), *bucket.put_checkpoints(job)}
    steps.fail(job.id, 1)
    sweep(collector)
    assert bucket.keys == both
    let_the_grace_pass(steps)
    sweep(collector)
    assert bucket.keys == set()


def test_a_success_that_is_being_written_meanwhile_keeps_its_outputs(
    collector: Collector, bucket: Bucket, database: Database, steps: Steps, make_job: MakeJob
) -> None:
    job = make_job()
    steps.claim(job.id)
    outputs = bucket.put_outputs(job, 1)
    with database.transaction() as session:
        assert succeed(session, job.id, attempt=1, keys=KEYS, output=OUTPUT, metrics=METRICS)
        sweep(collector)  # sees what was before
        assert bucket.keys == set(outputs)
    let_the_grace_pass(steps)
    sweep(collector)
    assert bucket.keys == set(outputs)


class StorageThatIsOvertaken(LocalStorage):
    """Something happens between the look at the record and the deletion."""

    meanwhile: Callable[[], None]

    def delete_prefix(self, prefix: str) -> int:
        self.meanwhile()
        return super().delete_prefix(prefix)


def test_no_success_can_come_between_the_look_and_the_deletion(
    database: Database, steps: Steps, make_job: MakeJob, tmp_path: Path
) -> None:
    storage = StorageThatIsOvertaken(tmp_path / "objects")
    bucket, job = Bucket(storage, tmp_path), make_job()
    steps.claim(job.id)
    bucket.put_outputs(job, 1)
    steps.lose_lease(job.id)
    let_the_grace_pass(steps)
    late: list[bool] = []

    def try_to_win() -> None:
        late.append(steps.succeed(job.id, 1))  # the attempt that slept
        assert steps.claim(job.id) == 2
        late.append(steps.succeed(job.id, 1))
        bucket.put_outputs(job, 2)
        assert steps.succeed(job.id, 2)

    storage.meanwhile = try_to_win
    sweep(Collector(database, storage, unused_uploads_kept=WEEK))
    assert late == [False, False]
    assert bucket.keys == {attempt_prefix(tenant_id=job.tenant_id, job_id=job.id, attempt=2) + name for name in NAMES}


NAMES = ("video.mp4", "poster.jpg", "preview.webp")


def test_what_a_zombie_writes_after_a_sweep_is_found_by_the_next(
    collector: Collector, bucket: Bucket, steps: Steps, make_job: MakeJob
) -> None:
    job = make_job()
    steps.claim(job.id)
    steps.lose_lease(job.id)
    let_the_grace_pass(steps)
    sweep(collector)
    bucket.put_outputs(job, 1)
    sweep(collector)
    assert bucket.keys == set()


def test_checkpoints_stay_until_their_job_has_ended(
    collector: Collector, bucket: Bucket, steps: Steps, make_job: MakeJob
) -> None:
    running, waiting, done = make_job(), make_job(), make_job()
    for job in (running, waiting, done):
        steps.claim(job.id)
    kept = {*bucket.put_checkpoints(running), *bucket.put_checkpoints(waiting)}
    bucket.put_checkpoints(done)
    steps.hand_back(waiting.id, 1)
    steps.succeed(done.id, 1)
    let_the_grace_pass(steps)
    sweep(collector)
    assert bucket.keys == kept


def test_objects_of_nobody_on_record_and_with_other_names_are_left_alone(
    collector: Collector, bucket: Bucket, steps: Steps, make_job: MakeJob
) -> None:
    job, other = make_job(), make_job()
    steps.claim(job.id)
    steps.fail(job.id, 1)
    let_the_grace_pass(steps)
    strange = {
        bucket.put("tenants/ten_gone/jobs/job_gone/1/video.mp4"),
        bucket.put(f"tenants/ten_gone/jobs/{job.id}/1/video.mp4"),  # a lost attempt of another tenant's job
        bucket.put(f"tenants/{job.tenant_id}/jobs/{job.id}/7/video.mp4"),  # an attempt that never was
        bucket.put(f"checkpoints/ten_gone/{job.id}/state.json"),
        bucket.put(f"checkpoints/{other.tenant_id}/{other.id}/state.json"),
        bucket.put("tenants/readme.txt"),
    }
    with capture_logs() as lines:
        sweep(collector)
    assert bucket.keys == strange
    assert [(line["objects"], line["one"]) for line in lines if "left alone" in line["event"]] == [
        (1, "tenants/readme.txt")
    ]


def test_an_upload_that_no_job_names_goes_after_its_time_and_others_stay(
    collector: Collector, bucket: Bucket, database: Database, steps: Steps, make_job: MakeJob, make_upload: MakeUpload
) -> None:
    unused, recent, *used = make_upload(days=8), make_upload(days=6), *(make_upload(days=400) for _ in range(3))
    for upload in (unused, recent, *used):
        bucket.put(upload.object_key)
    make_job(audio_source=f"upload:{used[0].id}", image_source=f"upload:{used[1].id}")
    make_job(video_source=f"upload:{used[2].id}")
    sweep(collector)
    assert unused.object_key in bucket.keys  # a request that saw it may be about to name it
    steps.sql("UPDATE uploads SET discarded_at = discarded_at - interval '61 min'")
    sweep(collector)
    assert bucket.keys == {recent.object_key, *(upload.object_key for upload in used)}
    with database.transaction() as session:
        rows = {row.id: row for row in session.scalars(select(Upload))}
    assert rows.keys() == {recent.id, *(upload.id for upload in used)}
    assert [rows[upload.id].used_at is not None for upload in (recent, *used)] == [False, True, True, True]


def test_an_upload_that_is_named_in_the_last_moment_is_kept(
    collector: Collector, bucket: Bucket, database: Database, steps: Steps, make_job: MakeJob, make_upload: MakeUpload
) -> None:
    upload = make_upload(days=8)
    bucket.put(upload.object_key)
    sweep(collector)
    make_job(audio_source=f"upload:{upload.id}")  # its request had looked before the sweep
    steps.sql("UPDATE uploads SET discarded_at = discarded_at - interval '61 min'")
    sweep(collector)
    assert bucket.keys == {upload.object_key}
    with database.transaction() as session:
        row = session.get_one(Upload, upload.id)
        assert (row.used_at is not None, row.discarded_at) == (True, None)


def test_parts_of_uploads_that_nobody_completes_are_freed(
    database: Database, steps: Steps, make_job: MakeJob, s3_settings: Any, s3_client: Any, s3_bucket: str
) -> None:
    collector = Collector(database, open_storage(s3_settings), unused_uploads_kept=WEEK)
    lost, running, won, ended = make_job(), make_job(), make_job(), make_job()
    for job in (lost, running, won, ended):
        steps.claim(job.id)
    steps.lose_lease(lost.id)
    steps.succeed(won.id, 1)
    steps.fail(ended.id, 1)
    let_the_grace_pass(steps)
    keys = {job.id: f"{attempt_prefix(tenant_id=job.tenant_id, job_id=job.id, attempt=1)}video.mp4"
            for job in (lost, running, won)}  # fmt: skip
    keys["checkpoint"] = checkpoint_prefix(tenant_id=ended.tenant_id, job_id=ended.id) + "segment"
    keys["fresh"] = "tenants/t/uploads/unknown"
    for key in keys.values():
        begun = s3_client.create_multipart_upload(Bucket=s3_bucket, Key=key)
        s3_client.upload_part(Bucket=s3_bucket, Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=b"part")
    sweep(collector)
    left = s3_client.list_multipart_uploads(Bucket=s3_bucket)["Uploads"]
    assert {upload["Key"] for upload in left} == {keys[running.id], keys["fresh"]}


def test_half_written_files_of_a_directory_go_after_a_day(database: Database, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "objects")
    incoming = tmp_path / "objects" / ".incoming"
    incoming.mkdir(parents=True)
    for name, hours in (("old", 25), ("new", 23)):
        (incoming / name).write_bytes(b"half")
        os.utime(incoming / name, times=(0, dt.datetime.now().timestamp() - hours * 3600))
    sweep(Collector(database, storage, unused_uploads_kept=WEEK))
    assert [path.name for path in incoming.iterdir()] == ["new"]


def test_it_tells_what_it_deleted_in_the_log_and_on_record(
    collector: Collector, bucket: Bucket, database: Database, steps: Steps, make_job: MakeJob
) -> None:
    for _ in range(2):
        job = make_job()
        steps.claim(job.id)
        bucket.put_outputs(job, 1)
        bucket.put_checkpoints(job)
        steps.fail(job.id, 1)
        let_the_grace_pass(steps)
        with capture_logs() as lines:
            sweep(collector)
        (told,) = [line for line in lines if line["event"] == "leftovers deleted"]
        assert (told["attempts"], told["checkpoints"]) == (3, 3)
    with database.transaction() as session:
        assert {row.kind: row.objects for row in session.scalars(select(Collected))} == {"attempt": 6, "checkpoint": 6}
    with capture_logs() as lines:
        sweep(collector)
    assert lines == []


class StorageThatBreaksOff(LocalStorage):
    deletions_until_it_breaks = 1

    def delete_prefix(self, prefix: str) -> int:
        if self.deletions_until_it_breaks == 0:
            raise StorageError("gone")
        self.deletions_until_it_breaks -= 1
        return super().delete_prefix(prefix)


def test_a_sweep_that_breaks_off_is_ended_by_the_next(
    database: Database, steps: Steps, make_job: MakeJob, tmp_path: Path
) -> None:
    storage = StorageThatBreaksOff(tmp_path / "objects")
    bucket, collector = Bucket(storage, tmp_path), Collector(database, storage, unused_uploads_kept=WEEK)
    for _ in range(3):
        job = make_job()
        steps.claim(job.id)
        bucket.put_outputs(job, 1)
        steps.fail(job.id, 1)
    let_the_grace_pass(steps)
    with pytest.raises(StorageError):
        sweep(collector)
    assert len(bucket.keys) == 6
    storage.deletions_until_it_breaks = 9
    sweep(collector)
    assert bucket.keys == set()


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "PAGE_KEYS", 2)
    monkeypatch.setattr(s3, "PAGE_KEYS", 2)


def test_a_sweep_goes_page_by_page_and_can_stop_after_any(
    small_pages: None, collector: Collector, bucket: Bucket, steps: Steps, make_job: MakeJob
) -> None:
    for _ in range(4):
        job = make_job()
        steps.claim(job.id)
        bucket.put_outputs(job, 1)
        steps.fail(job.id, 1)
    let_the_grace_pass(steps)
    left = [len(bucket.keys) for _ in collector.sweep()]
    assert left[-1] == 0
    assert len({12, 9, 6, 3, 0} & set(left)) >= 3  # not all in one step
