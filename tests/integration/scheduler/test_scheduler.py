"""The scheduler against real servers that go away and come back."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest
import redis
from sqlalchemy.exc import OperationalError, ProgrammingError
from structlog.testing import capture_logs

from infra.local.postgres import EmbeddedPostgres
from infra.local.valkey import EmbeddedValkey
from models.database import Database, create_database_engine
from models.job import Job, JobStatus
from models.object_keys import OutputName, output_key
from tests import factories
from tests.integration.models.steps import Steps
from tests.waiting import wait_for
from worker import collecting
from worker import scheduler as module
from worker.reconciler import Reconciler
from worker.scheduler import Scheduler, SchedulerSettings
from worker.storage import LocalStorage, StorageError, UnfinishedUpload

MakeJob = Callable[..., Job]

wait_until = partial(wait_for, timeout_s=40)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PUBLISH_EVERY_S", 0.1)
    monkeypatch.setattr(module, "RESCUE_EVERY_S", 0.1)
    monkeypatch.setattr(module, "STANDBY_S", 0.1)
    monkeypatch.setattr(module, "AFTER_DATABASE_ERROR_S", 0.1)
    monkeypatch.setattr(module, "AFTER_BROKER_ERROR_S", 0.1)


@pytest.fixture
def steps(database: Database) -> Steps:
    return Steps(database)


def settings_of(database_url: str, broker_url: str, directory: Path) -> SchedulerSettings:
    return SchedulerSettings(
        database_url=database_url,
        broker_url=broker_url,
        storage_directory=directory,
        storage_secret="a secret of the tests",
        scheduler_alive_file=directory / "alive",
    )


@contextmanager
def running(settings: SchedulerSettings) -> Iterator[threading.Thread]:
    stop = threading.Event()
    thread = threading.Thread(target=Scheduler(settings).run, args=[stop], daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def test_waiting_jobs_are_published_to_the_queue_of_their_priority(
    database_url: str, broker_url: str, tmp_path: Path, make_job: MakeJob
) -> None:
    high, low = make_job(priority="high").id, make_job(priority="low").id
    with running(settings_of(database_url, broker_url, tmp_path)):
        wait_until(lambda: messages(broker_url, "render.tiny.low") == [low])
        assert messages(broker_url, "render.tiny.high") == [high]
        assert messages(broker_url, "render.tiny.normal") == []
    assert (tmp_path / "alive").exists()


def test_a_lost_job_is_rescued_and_published_again(
    database_url: str, broker_url: str, tmp_path: Path, make_job: MakeJob, steps: Steps
) -> None:
    job_id = make_job().id
    steps.claim(job_id)
    steps.let_lease_expire(job_id)
    with running(settings_of(database_url, broker_url, tmp_path)):
        wait_until(lambda: messages(broker_url, "render.tiny.normal") == [job_id])
    job = steps.job(job_id)
    assert (job.status, job.crash_count) == (JobStatus.QUEUED, 1)


def test_an_overdue_job_expires(
    database_url: str, broker_url: str, tmp_path: Path, make_job: MakeJob, steps: Steps
) -> None:
    job_id = make_job().id
    steps.sql("UPDATE jobs SET deadline_at = now() - interval '1 s' WHERE id = :id", id=job_id)
    with running(settings_of(database_url, broker_url, tmp_path)):
        wait_until(lambda: steps.job(job_id).status == JobStatus.EXPIRED)


def test_deliveries_that_are_due_are_published(
    database_url: str,
    broker_url: str,
    tmp_path: Path,
    make_job: MakeJob,
    make_endpoint: Callable[..., object],
    steps: Steps,
) -> None:
    make_endpoint()
    job = make_job()
    steps.request_cancel(job.id, job.tenant_id)
    (delivery,) = steps.deliveries(job.id)
    with running(settings_of(database_url, broker_url, tmp_path)):
        wait_until(lambda: messages(broker_url, "webhooks") == [delivery.id])


def test_one_of_two_leads_and_the_other_takes_over(
    database_url: str, broker_url: str, tmp_path: Path, make_job: MakeJob
) -> None:
    settings = settings_of(database_url, broker_url, tmp_path)
    with capture_logs() as lines, ExitStack() as second:
        with running(settings):
            wait_until(lambda: leaders(lines) == 1)
            second.enter_context(running(settings))
            time.sleep(0.5)  # the second asks for the lock some times
            assert leaders(lines) == 1
        wait_until(lambda: leaders(lines) == 2)
        job_id = make_job().id
        wait_until(lambda: messages(broker_url, "render.tiny.normal") == [job_id])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OperationalError("SELECT 1", {}, Exception("deadlock detected")), "the database is away"),
        (ProgrammingError("SELECT 1", {}, Exception("a mistake of ours")), "a round failed"),
    ],
)
def test_after_a_round_that_failed_it_leads_again(
    database_url: str,
    broker_url: str,
    tmp_path: Path,
    make_job: MakeJob,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    words: str,
) -> None:
    fails = [error, error]
    rescue = Reconciler.rescue

    def failing(reconciler: Reconciler) -> None:
        if fails:
            raise fails.pop()
        rescue(reconciler)

    monkeypatch.setattr(Reconciler, "rescue", failing)
    job_id = make_job().id
    with capture_logs() as lines, running(settings_of(database_url, broker_url, tmp_path)):
        wait_until(lambda: messages(broker_url, "render.tiny.normal") == [job_id])
    assert said(lines, words) >= 1
    assert leaders(lines) == 3


def test_while_the_broker_is_away_jobs_are_rescued_and_afterwards_published_at_once(
    database_url: str, own_valkey: EmbeddedValkey, tmp_path: Path, make_job: MakeJob, steps: Steps
) -> None:
    job_id, lost = make_job().id, make_job().id
    steps.claim(lost)
    steps.let_lease_expire(lost)
    own_valkey.kill()
    with capture_logs() as lines, running(settings_of(database_url, own_valkey.url, tmp_path)):
        wait_until(lambda: steps.job(lost).status == JobStatus.QUEUED)
        wait_until(lambda: said(lines, "the broker is away") == 1)
        wait_until((tmp_path / "alive").exists)
        a_round = last_round(tmp_path)
        wait_until(lambda: last_round(tmp_path) > a_round + 0.5)  # some more rounds
        assert said(lines, "the broker is away") == 1
        own_valkey.start()
        wait_until(lambda: set(messages(own_valkey.url, "render.tiny.normal")) == {job_id, lost})
        wait_until(lambda: said(lines, "the broker is back") == 1)


def test_the_leader_deletes_leftovers_from_the_storage(
    database_url: str, broker_url: str, tmp_path: Path, make_job: MakeJob, steps: Steps
) -> None:
    job = make_job()
    steps.claim(job.id)
    steps.hand_back(job.id, 1)
    steps.sql("UPDATE attempts SET ended_at = now() - interval '1 h'")
    lost = tmp_path / output_key(OutputName.VIDEO, tenant_id=job.tenant_id, job_id=job.id, attempt=1)
    lost.parent.mkdir(parents=True)
    lost.write_bytes(b"half a video")
    with running(settings_of(database_url, broker_url, tmp_path)):
        wait_until(lambda: not lost.exists())


def test_a_storage_that_hangs_holds_up_nothing(
    database_url: str, broker_url: str, tmp_path: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_asked, released = threading.Event(), threading.Event()

    def hang(_storage: LocalStorage) -> list[UnfinishedUpload]:
        is_asked.set()
        released.wait(60)
        return []

    monkeypatch.setattr(LocalStorage, "unfinished_uploads", hang)
    with running(settings_of(database_url, broker_url, tmp_path)):
        assert is_asked.wait(20)
        job_id = make_job().id
        started = time.monotonic()
        wait_until(lambda: messages(broker_url, "render.tiny.normal") == [job_id])
        assert time.monotonic() - started < 5
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 5
    released.set()


def test_a_sweep_that_fails_is_begun_again_and_told_once(
    database_url: str, broker_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "SWEEP_EVERY_S", 0.05)
    monkeypatch.setattr(collecting, "AFTER_ERROR_S", 0.05)
    fails: list[Exception] = [ValueError("a mistake of ours"), *(StorageError("away") for _ in range(3))]
    sweeps = []

    def unfinished(_storage: LocalStorage) -> list[UnfinishedUpload]:
        if fails:
            raise fails.pop()
        sweeps.append(1)
        return []

    monkeypatch.setattr(LocalStorage, "unfinished_uploads", unfinished)
    with capture_logs() as lines, running(settings_of(database_url, broker_url, tmp_path)):
        wait_until(lambda: len(sweeps) > 1)
    told = [said(lines, words) for words in ("the storage is away", "a sweep failed", "the storage is back")]
    assert told == [1, 1, 1]


def test_a_broker_that_is_frozen_holds_up_nothing_for_long(
    database_url: str, own_valkey: EmbeddedValkey, tmp_path: Path, make_job: MakeJob, steps: Steps
) -> None:
    with running(settings_of(database_url, own_valkey.url, tmp_path)):
        first = make_job().id
        wait_until(lambda: messages(own_valkey.url, "render.tiny.normal") == [first])
        os.kill(own_valkey.pid, signal.SIGSTOP)
        waiting, lost = make_job().id, make_job().id
        steps.claim(lost)
        steps.let_lease_expire(lost)
        wait_until(lambda: steps.job(lost).status == JobStatus.QUEUED, timeout_s=20)
        os.kill(own_valkey.pid, signal.SIGCONT)
        wait_until(lambda: {waiting, lost} <= set(messages(own_valkey.url, "render.tiny.normal")))


def test_the_scheduler_outlives_a_crash_of_the_database(
    own_postgres: EmbeddedPostgres, broker_url: str, tmp_path: Path
) -> None:
    database = Database(create_database_engine(own_postgres.url, application_name="tests", pool_size=1))
    with capture_logs() as lines, running(settings_of(own_postgres.url, broker_url, tmp_path)):
        wait_until(lambda: leaders(lines) == 1)
        own_postgres.kill()
        wait_until(lambda: said(lines, "the database is away") == 1)
        time.sleep(0.5)  # it tries some times
        own_postgres.start()
        wait_until(lambda: said(lines, "the database is back") == 1)
        assert said(lines, "the database is away") == 1
        with database.transaction() as session:
            tenant = factories.add_tenant(session)
            job_id = factories.add_job(session, tenant_id=tenant.id).id
        wait_until(lambda: messages(broker_url, "render.tiny.normal") == [job_id])
    database.close()


@pytest.mark.parametrize("frozen", ["nothing", "broker", "database"])
def test_a_stopped_scheduler_ends_promptly_whatever_hangs(
    own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey, tmp_path: Path, frozen: str
) -> None:
    environment = {
        **os.environ,
        "DATABASE_URL": own_postgres.url,
        "BROKER_URL": own_valkey.url,
        "REALVIDEO_STORAGE_DIRECTORY": str(tmp_path),
        "REALVIDEO_STORAGE_SECRET": "a secret of the tests",
        "REALVIDEO_SCHEDULER_ALIVE_FILE": str(tmp_path / "alive"),
    }
    process = subprocess.Popen([sys.executable, "-c", "from worker.scheduler import main; main()"], env=environment)
    try:
        wait_until((tmp_path / "alive").exists)
        if frozen == "broker":
            os.kill(own_valkey.pid, signal.SIGSTOP)
        if frozen == "database":
            for server_process in processes_of(own_postgres):
                server_process.suspend()
            time.sleep(1.5)  # so that a round hangs in it
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait(10)
        for server_process in processes_of(own_postgres):
            server_process.resume()


def processes_of(server: EmbeddedPostgres) -> list[psutil.Process]:
    postmaster = psutil.Process(server.pid)
    return [postmaster, *postmaster.children(recursive=True)]


def leaders(lines: list[dict[str, object]]) -> int:
    return said(lines, "leads")


def said(lines: list[dict[str, object]], words: str) -> int:
    return len([line for line in lines if str(line["event"]).startswith(words)])


def last_round(directory: Path) -> float:
    """When it ended, in seconds."""
    return (directory / "alive").stat().st_mtime


def messages(broker_url: str, queue: str) -> list[str]:
    """The first arguments of the messages that wait in a queue, oldest first."""
    with redis.Redis.from_url(broker_url, socket_timeout=5) as client:
        waiting = client.lrange(f"render:{queue}", 0, -1)
    return [json.loads(base64.b64decode(json.loads(raw)["body"]))[0][0] for raw in reversed(waiting)]
