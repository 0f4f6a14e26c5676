"""A storage that fails in the middle of things, and disks that change what they hold."""

import time
from pathlib import Path

from models.job import AttemptOutcome, Job, JobStatus
from tests.faults.figures import record
from tests.faults.installation import OUTPUTS, Installation
from tests.faults.strikes import Action, Order
from tests.servers.faulty_proxy import Cut
from tests.waiting import wait_for
from worker.failpoints import Failpoint

SLACK_S = 15.0
UNAVAILABLE = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
SERVER_ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def test_a_storage_that_answers_with_errors_is_asked_again_and_the_video_is_whole(installation: Installation) -> None:
    job_id, held = _finished_but_not_uploaded(installation)
    broken: list[bytes] = []

    def break_once(data: bytes) -> bytes:
        """So that the next request needs a new connection, which is what gets the refusals."""
        if not broken:
            broken.append(data)
            raise Cut
        return data

    struck_at = time.time()
    installation.wire.to_server = break_once
    installation.wire.refusals += [SERVER_ERROR, UNAVAILABLE, SERVER_ERROR]
    held.release()
    row = _wait_for_success(installation, job_id)
    assert installation.wire.refusals == []
    assert row.finished_at is not None
    record("S3 answers 500 and 503", noticed_s=0.0, goes_on_s=row.finished_at.timestamp() - struck_at, repeated_s=None)


def test_a_storage_that_is_down_for_long_costs_another_attempt_and_ships_nothing(installation: Installation) -> None:
    job_id, held = _finished_but_not_uploaded(installation)

    def cut(data: bytes) -> bytes:
        raise Cut

    struck_at = time.time()
    installation.wire.to_server = cut
    held.release()
    installation.wait_for_row(job_id, lambda row: row.error_retries >= 1, timeout_s=120)
    assert installation.row(job_id).result_key is None
    first = installation.attempts(job_id)[0]
    assert (first.outcome, first.error_code) == (AttemptOutcome.ERROR, "storage_error")
    assert first.ended_at is not None
    installation.mend_wire()
    row = _wait_for_success(installation, job_id)
    assert row.finished_at is not None
    second = installation.attempts(job_id)[1]
    record(
        "S3 cannot be reached",
        noticed_s=first.ended_at.timestamp() - struck_at,
        goes_on_s=second.started_at.timestamp() - struck_at,
        repeated_s=first.ended_at.timestamp() - first.started_at.timestamp(),
    )


def test_a_storage_that_hangs_is_given_up_by_the_clock_of_the_worker(installation: Installation) -> None:
    job_id, held = _finished_but_not_uploaded(installation)
    hung: list[float] = []

    def hang_once(data: bytes) -> bytes:
        if not hung:
            hung.append(time.time())
            time.sleep(installation.seconds(60))
            raise Cut
        return data

    installation.wire.to_client = hang_once
    struck_at = time.time()
    held.release()
    row = _wait_for_success(installation, job_id)
    assert hung
    assert row.finished_at is not None
    record("S3 hangs once", noticed_s=None, goes_on_s=row.finished_at.timestamp() - struck_at, repeated_s=None)


def test_a_lost_reply_to_an_upload_leaves_one_whole_object(installation: Installation) -> None:
    job_id, held = _finished_but_not_uploaded(installation)
    lost: list[bytes] = []

    def lose_one(data: bytes) -> bytes:
        if not lost and data.startswith(b"HTTP/1.1 200"):
            lost.append(data)
            raise Cut
        return data

    installation.wire.to_client = lose_one
    held.release()
    row = _wait_for_success(installation, job_id)
    assert lost
    assert row.attempt == 1


def test_an_upload_that_breaks_off_is_sent_again(installation: Installation) -> None:
    job_id, held = _finished_but_not_uploaded(installation)
    cut_off: list[int] = []

    def cut_short(data: bytes) -> bytes:
        if not cut_off and b"PUT " not in data and len(data) > 2000:
            cut_off.append(len(data))
            raise Cut
        return data

    installation.wire.to_server = cut_short
    held.release()
    _wait_for_success(installation, job_id)
    assert cut_off


def test_a_storage_that_acknowledges_an_object_and_loses_it_is_not_believed(installation: Installation) -> None:
    job_id, held = _finished_but_not_uploaded(installation)
    videos: list[str] = []
    forgotten: list[str] = []

    def note_video(data: bytes) -> bytes:
        if data.startswith(b"PUT ") and b"/video.mp4 " in data:
            videos.append(data.split()[1].decode().removeprefix(f"/{OUTPUTS}/"))
        return data

    def forget_it_once(data: bytes) -> bytes:
        if videos and not forgotten and data.startswith(b"HTTP/1.1 200"):
            forgotten.append(videos[0])
            installation.s3.delete_object(Bucket=OUTPUTS, Key=videos[0])
        return data

    installation.wire.to_server, installation.wire.to_client = note_video, forget_it_once
    held.release()
    row = _wait_for_success(installation, job_id)
    assert forgotten
    assert (row.attempt, row.error_retries) == (2, 1)


def test_a_file_that_changes_between_measurement_and_upload_is_not_shipped(installation: Installation) -> None:
    job_id, held = _finished_but_not_uploaded(installation)
    (video,) = Path(installation.directory, "work").glob(f"*/attempts/{job_id}.1/output.mp4")
    content = bytearray(video.read_bytes())
    content[len(content) // 2] ^= 0xFF
    video.write_bytes(content)
    struck_at = time.time()
    held.release()
    row = _wait_for_success(installation, job_id)
    first, second = installation.attempts(job_id)
    assert (first.outcome, first.error_code) == (AttemptOutcome.ERROR, "storage_error")
    assert (row.attempt, row.error_retries, row.crash_count) == (2, 1, 0)
    assert first.ended_at is not None
    record(
        "a finished file changes on the worker's disk",
        noticed_s=first.ended_at.timestamp() - struck_at,
        goes_on_s=second.started_at.timestamp() - struck_at,
        repeated_s=first.ended_at.timestamp() - first.started_at.timestamp(),
    )


def _finished_but_not_uploaded(installation: Installation) -> tuple[str, Order]:
    held = installation.orders.give(Action.HOLD, Failpoint.MEASURED)
    job_id = installation.submit()
    wait_for(lambda: held.struck is not None, timeout_s=30)
    return job_id, held


def _wait_for_success(installation: Installation, job_id: str) -> Job:
    return installation.wait_for_status(job_id, JobStatus.SUCCEEDED, timeout_s=installation.seconds(100) + 6 * SLACK_S)
