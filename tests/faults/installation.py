"""A whole installation of real processes on loopback, to be broken: Postgres, Valkey, S3, API, scheduler, nodes.

Only the network on the nodes is a stand-in. Every fault strikes from outside, by signals, by the wire to the storage or
by orders at failpoints; nothing of the product is patched in the process of the tests.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import httpx
import psutil
from botocore.config import Config
from sqlalchemy import func, select, text

from api.keys import Scope, create_key
from infra.local.postgres import EmbeddedPostgres
from infra.local.process import free_port
from infra.local.valkey import EmbeddedValkey
from models.database import Database, create_database_engine
from models.job import TERMINAL_STATUSES, Attempt, Job, JobStatus
from models.migrate import upgrade
from models.webhook import WebhookEvent
from tests import factories
from tests.faults.armed import CLOCK, MUTANT, ORDERS
from tests.faults.checker import HISTORY
from tests.faults.parts import Api, Node, Part, Scheduler, Sender
from tests.faults.receiver import Receiver, running_receiver
from tests.faults.strikes import Orders
from tests.integration.worker.nodes import write_picture, write_tone
from tests.servers.faulty_proxy import Proxy, faulty_proxy
from tests.servers.swift import S3Server
from tests.waiting import wait_for

PRESET = "tiny"
LANES = tuple(f"lane-{number}" for number in range(8))
"""Presets of their own, so that a test can say which node has which job."""
INPUTS = "inputs"
OUTPUTS = "outputs"
SECONDS = (1, 3, 10, 30)
"""Lengths of the sounds to speak: two blocks for each second."""
API_TIMEOUT_S = 60.0
CHECKPOINT_EVERY_S = 30.0
"""As the product does by itself; by the clock."""
PROGRESS_DEADLINE_S = 8.0
"""A busy machine leaves a rank waiting for some seconds, and these nodes are for other faults."""


@dataclass
class Installation:
    """Everything that a fault may hit, and ways to look at what became of the jobs."""

    directory: Path
    clock: float
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    s3: Any
    wire: Proxy
    """Between the workers and the storage."""
    receiver: Receiver
    orders: Orders
    database: Database
    tenant_id: str
    key: str
    environment: dict[str, str]
    api: Api = field(init=False)
    scheduler: Scheduler = field(init=False)
    sender: Sender = field(init=False)
    nodes: list[Node] = field(default_factory=list)
    acknowledged: set[str] = field(default_factory=set)
    """Ids of the jobs that the API said it accepted."""
    checksums: dict[tuple[str, str], str] = field(default_factory=dict)
    """SHA-256 of contents of the storage that were read, by key and ETag."""

    def seconds(self, seconds: float) -> float:
        """So long by the clock of the processes under test."""
        return seconds * self.clock

    # --- parts ---

    def start(self, *, nodes: int) -> None:
        self.api = Api("api", name="api", environment=self.environment, log=self._log("api"))
        self.scheduler = self.new_scheduler("scheduler")
        self.sender = Sender("webhooks", name="sender", environment=self.environment, log=self._log("sender"))
        self.nodes = [self.new_node(f"node-{number}") for number in range(1, nodes + 1)]
        self.restore()

    def new_scheduler(self, name: str) -> Scheduler:
        return Scheduler("scheduler", name=name, environment=self.environment, log=self._log(name))

    def new_node(self, name: str, *, preset: str = PRESET, **settings: object) -> Node:
        environment = {
            **self.environment,
            "REALVIDEO_NODE_NAME": name,
            "REALVIDEO_PRESET": preset,
            **{f"REALVIDEO_{key.upper()}": str(value) for key, value in settings.items()},
        }
        return Node("node", name=name, environment=environment, log=self._log(name))

    @contextmanager
    def lanes(self, count: int, **settings: object) -> Iterator[list[Node]]:
        """Nodes of presets of their own, ready; killed in the end."""
        lanes = [self.new_node(name, preset=name, **{"ranks": 1, **settings}) for name in LANES[:count]]
        try:
            for lane in lanes:
                lane.start()
            for lane in lanes:
                lane.wait_until_ready()
            yield lanes
        finally:
            for lane in lanes:
                if lane.is_running:
                    lane.kill_and_see_nothing_left()

    @property
    def parts(self) -> Sequence[Part]:
        return (self.api, self.scheduler, self.sender, *self.nodes)

    def restore(self) -> None:
        """Whatever a test before did: every part runs and is ready, and no order waits."""
        self.orders.withdraw_all()
        self.receiver.behave()
        self.mend_wire()
        thaw(self.postgres.pid if self.postgres.is_running else None)
        thaw(self.valkey.pid if self.valkey.is_running else None)
        for server in (self.postgres, self.valkey):
            if not server.is_running:
                server.start()
        for part in self.parts:
            if part.is_running:
                thaw(part.pid)
            else:
                part.start()
        for part in self.parts:
            part.keep_until_ready()

    def kill_all(self) -> None:
        for part in self.parts:
            part.kill()

    def mend_wire(self) -> None:
        self.wire.refusals.clear()
        self.wire.to_server = self.wire.to_client = bytes

    # --- jobs ---

    def submit(
        self, orders: str = "", *, seconds: int = 1, key: str | None = None, preset: str = PRESET, **more: object
    ) -> str:
        """A job's id, once the API has accepted it; asked again under the same key until it has."""
        body = {
            "audio": f"s3://{INPUTS}/{seconds}.wav",
            "image": f"s3://{INPUTS}/portrait.png",
            "prompt": orders or "a person speaks",
            "width": 64,
            "height": 64,
            "preset": preset,
            **more,
        }
        key = key or secrets.token_hex(8)
        deadline = time.monotonic() + API_TIMEOUT_S
        while True:
            with suppress(httpx.HTTPError), self.client() as client:
                answer = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
                if answer.status_code == 201:
                    job_id = str(answer.json()["id"])
                    self.acknowledged.add(job_id)
                    return job_id
                assert answer.status_code >= 500 or answer.status_code == 409, answer.text
            assert time.monotonic() < deadline, "the API accepts no job"
            time.sleep(0.1)

    def cancel(self, job_id: str) -> int:
        """The status of the answer."""
        with self.client() as client:
            return client.post(f"/v1/jobs/{job_id}/cancel").status_code

    def client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.api.url,
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=15,
            trust_env=False,
            verify=False,
        )

    def row(self, job_id: str) -> Job:
        with self.database.transaction() as session:
            return session.get_one(Job, job_id)

    def attempts(self, job_id: str) -> list[Attempt]:
        with self.database.transaction() as session:
            return list(session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.attempt)))

    def outcomes(self, job_id: str) -> list[str | None]:
        return [attempt.outcome for attempt in self.attempts(job_id)]

    def event_ids(self, job_id: str) -> list[str]:
        with self.database.transaction() as session:
            return list(session.scalars(select(WebhookEvent.id).where(WebhookEvent.job_id == job_id)))

    def wait_for_status(self, job_id: str, *statuses: JobStatus, timeout_s: float = 60.0) -> Job:
        self.wait_for_row(job_id, lambda row: row.status in statuses, timeout_s=timeout_s)
        return self.row(job_id)

    def wait_for_end(self, job_id: str, *, timeout_s: float = 60.0) -> Job:
        return self.wait_for_status(job_id, *TERMINAL_STATUSES, timeout_s=timeout_s)

    def wait_for_all_ends(self, *, timeout_s: float) -> None:
        """Of every job there ever was."""
        unended = select(func.count()).where(Job.status.not_in(TERMINAL_STATUSES))

        def all_ended() -> bool:
            with self.database.transaction() as session:
                return session.scalar(unended) == 0

        wait_for(all_ended, timeout_s=timeout_s)

    def wait_for_row(self, job_id: str, condition: Callable[[Job], bool], *, timeout_s: float = 60.0) -> None:
        wait_for(lambda: condition(self.row(job_id)), timeout_s=timeout_s)

    def node_of(self, job_id: str) -> Node:
        """Who has it now."""
        owner = self.row(job_id).lease_owner
        return next(node for node in self.nodes if node.name == owner)

    def _log(self, name: str) -> Path:
        return self.directory / f"{name}.log"


@contextmanager
def running_installation(
    directory: Path, server: S3Server, *, clock: float, nodes: int, mutant: str = ""
) -> Iterator[Installation]:
    """Everything started and ready, in a directory that an ordinary user can reach. Call it in the main thread.

    The storage is there already, and has no bucket of the names that are needed here.
    """
    with ExitStack() as stack:
        postgres = stack.enter_context(EmbeddedPostgres(directory / "postgres", durable=False).running())
        valkey = stack.enter_context(EmbeddedValkey(directory / "valkey").running())
        wire = stack.enter_context(faulty_proxy(int(server.endpoint_url.rsplit(":", 1)[1])))
        receiver = stack.enter_context(running_receiver())
        upgrade(postgres.url)
        database = Database(create_database_engine(postgres.url, application_name="tests", pool_size=8))
        stack.callback(database.close)
        with database.transaction() as session:
            tenant_id = factories.add_tenant(session).id
            key = create_key(session, tenant_id=tenant_id, name="faults", scopes=[Scope.ADMIN]).token
            factories.add_endpoint(session, tenant_id=tenant_id, url=receiver.url)
            session.execute(text(HISTORY))
        orders_directory = directory / "orders"
        orders_directory.mkdir()
        s3 = _s3_client(server)
        stack.callback(s3.close)
        _fill(s3, directory)
        installation = Installation(
            directory=directory,
            clock=clock,
            postgres=postgres,
            valkey=valkey,
            s3=s3,
            wire=wire,
            receiver=receiver,
            orders=Orders(orders_directory),
            database=database,
            tenant_id=tenant_id,
            key=key,
            environment=_environment(
                directory, server, wire, database_url=postgres.url, broker_url=valkey.url, clock=clock, mutant=mutant
            ),
        )
        stack.callback(installation.kill_all)
        installation.start(nodes=nodes)
        yield installation


def _environment(
    directory: Path, server: S3Server, wire: Proxy, *, database_url: str, broker_url: str, clock: float, mutant: str
) -> dict[str, str]:
    return {
        CLOCK: str(clock),
        MUTANT: mutant,
        ORDERS: str(directory / "orders"),
        "DATABASE_URL": database_url,
        "BROKER_URL": broker_url,
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "REALVIDEO_S3_BUCKET": OUTPUTS,
        "REALVIDEO_S3_ENDPOINT_URL": wire.url,
        "REALVIDEO_S3_ACCESS_KEY_ID": server.access_key_id,
        "REALVIDEO_S3_SECRET_ACCESS_KEY": server.secret_access_key,
        "REALVIDEO_S3_ALLOWED_INPUT_BUCKETS": f'["{INPUTS}"]',
        "REALVIDEO_ALLOW_HTTP_URLS": "true",
        "REALVIDEO_PRESETS": str([PRESET, *LANES]).replace("'", '"'),
        "REALVIDEO_SESSION_SECRET": "only for the tests, 9876543210",
        "REALVIDEO_API_PORT": str(free_port()),
        "REALVIDEO_WORK_DIRECTORY": str(directory / "work"),
        "REALVIDEO_CHECKPOINT_EVERY_S": str(CHECKPOINT_EVERY_S * clock),
        "REALVIDEO_RANKS": "2",
        "REALVIDEO_THREADS_PER_RANK": "1",
        "REALVIDEO_DEVICE": "cpu",
        "REALVIDEO_PROGRESS_DEADLINE_S": str(PROGRESS_DEADLINE_S),
        "REALVIDEO_GROUP_FAILURES_ALLOWED": "1000",
    }


def _s3_client(server: S3Server) -> Any:
    return boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint_url,
        region_name=server.region,
        aws_access_key_id=server.access_key_id,
        aws_secret_access_key=server.secret_access_key,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"total_max_attempts": 3}),
    )


def _fill(s3: Any, directory: Path) -> None:
    for bucket in (INPUTS, OUTPUTS):
        s3.create_bucket(Bucket=bucket)
    file = directory / "input"
    for seconds in SECONDS:
        write_tone(file, seconds=seconds)
        s3.put_object(Bucket=INPUTS, Key=f"{seconds}.wav", Body=file.read_bytes())
    write_picture(file, size=128)
    s3.put_object(Bucket=INPUTS, Key="portrait.png", Body=file.read_bytes())


def tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def freeze(pid: int) -> None:
    """The process first, so that it does not see its children stop."""
    process, *children = tree(pid)
    process.suspend()
    for child in children:
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            child.suspend()


def thaw(pid: int | None) -> None:
    """The children first. None: nothing to do."""
    if pid is None:
        return
    for process in reversed(tree(pid)):
        with suppress(ProcessLookupError):  # it ended meanwhile
            os.kill(process.pid, signal.SIGCONT)


def in_background(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
