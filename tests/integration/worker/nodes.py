"""Worker nodes as real processes, and jobs for them to render. Only the network may be a stand-in."""

import os
import secrets
import signal
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image

from models.database import Database
from models.job import Job, JobStatus
from models.object_keys import upload_key
from models.queues import BROKER_SETTINGS
from models.worker_node import NodeState, WorkerNode
from tests.unit.group.conftest import members_of
from tests.waiting import wait_for
from worker.publisher import Publisher

STAND_IN_NODE = "tests.integration.worker.stand_in_machine"
REAL_NODE = "worker.machine"
REDIS_PREFIX = str(BROKER_SETTINGS["broker_transport_options"]["global_keyprefix"])
START_TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Surroundings:
    """What nodes and tests share."""

    database: Database
    database_url: str
    broker_url: str
    directory: Path
    make_job: Callable[..., Job]
    tenant_id: str

    @property
    def objects(self) -> Path:
        return self.directory / "objects"

    def job(self, orders: str = "", *, seconds: float = 1.0, size: int = 64, **columns: object) -> Job:
        """A queued job of a tone and a gradient; a stand-in network takes the prompt as orders."""
        return self.make_job(
            **{
                "audio_source": self.upload(lambda path: write_tone(path, seconds=seconds)),
                "image_source": self.upload(lambda path: write_picture(path, size=256)),
                "prompt": orders or "a person speaks",
                "width": size,
                "height": size,
                **columns,
            }
        )

    def upload(self, write: Callable[[Path], None]) -> str:
        upload_id = f"upl_{secrets.token_hex(8)}"
        path = self.objects / upload_key(tenant_id=self.tenant_id, upload_id=upload_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
        return f"upload:{upload_id}"

    def publish(self, job: Job) -> None:
        with Publisher(self.broker_url) as publisher:
            publisher.wake_for_render(job.id, preset=job.preset, priority=job.priority)

    def row(self, job: Job) -> Job:
        with self.database.transaction() as session:
            row = session.get(Job, job.id)
            assert row is not None
            return row

    def wait_for_status(self, job: Job, status: JobStatus, *, timeout_s: float = 30.0) -> Job:
        wait_for(lambda: self.row(job).status == status, timeout_s=timeout_s)
        return self.row(job)

    def wait_for_blocks(self, job: Job, blocks: int) -> None:
        wait_for(lambda: self.row(job).blocks_done >= blocks, timeout_s=30)

    @contextmanager
    def node(self, *, module: str = STAND_IN_NODE, name: str = "node-1", **settings: object) -> Iterator["NodeProcess"]:
        """A node that is ready; killed with all it started when the block ends."""
        node = NodeProcess(self, module=module, name=name, settings=settings)
        try:
            node.wait_until_ready()
            yield node
        finally:
            node.kill_everything()


class NodeProcess:
    def __init__(self, around: Surroundings, *, module: str, name: str, settings: dict[str, object]) -> None:
        self.name = name
        self._around = around
        self.log = around.directory / f"{name}-{secrets.token_hex(4)}.log"
        environment = {
            **os.environ,
            "DATABASE_URL": around.database_url,
            "BROKER_URL": around.broker_url,
            "REALVIDEO_STORAGE_DIRECTORY": str(around.objects),
            "REALVIDEO_STORAGE_SECRET": "of no use here",
            "REALVIDEO_NODE_NAME": name,
            "REALVIDEO_WORK_DIRECTORY": str(around.directory / "work"),
            "REALVIDEO_THREADS_PER_RANK": "1",
            "REALVIDEO_DEVICE": "cpu",
            "REALVIDEO_PRESET": "tiny",
            **{f"REALVIDEO_{key.upper()}": str(value) for key, value in settings.items()},
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module], env=environment, stdout=log, stderr=log, start_new_session=True
            )
        self._groups: set[int] = {self.process.pid}

    def wait_until_ready(self) -> None:
        wait_for(lambda: self.has_ended or self._is_ready(), timeout_s=START_TIMEOUT_S)
        assert not self.has_ended, self.log.read_text()
        self.note_groups()

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def row(self) -> WorkerNode | None:
        with self._around.database.transaction() as session:
            return session.get(WorkerNode, self.name)

    def rank_pids(self) -> list[int]:
        return [child.pid for child in self._children() if "rank" in _command(child)]

    def consumer_pid(self) -> int | None:
        """None: it is being started again."""
        return next((child.pid for child in self._children() if "worker.consumer" in _command(child)), None)

    def note_groups(self) -> None:
        """Remember the process groups of its children as they are now, to look for orphans later."""
        self._groups |= {child.pid for child in self._children()}

    def survivors(self) -> list[psutil.Process]:
        return members_of(tuple(self._groups))

    def get(self, path: str) -> httpx.Response:
        """From the health server; its port is in the log."""
        address = self.log.read_text().split("health at ")[1].split()[0]
        return httpx.get(address + path, timeout=5, trust_env=False, verify=False)

    def at_stations(self) -> dict[str, int]:
        """How many jobs stand where, by the node's metrics."""
        prefix = 'realvideo_node_jobs{station="'
        lines = [line for line in self.get("/metrics").text.splitlines() if line.startswith(prefix)]
        return {line[len(prefix) :].split('"')[0]: int(float(line.split()[-1])) for line in lines}

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def wait_for_end(self, *, timeout_s: float) -> int:
        return self.process.wait(timeout=timeout_s)

    def kill_everything(self) -> None:
        if not self.has_ended:
            self.note_groups()
            self.process.kill()
        self.process.wait(timeout=10)
        for process in self.survivors():
            process.kill()

    def _is_ready(self) -> bool:
        row = self.row()
        if row is None or row.state != NodeState.READY:
            return False
        return "health at" in self.log.read_text() and self.get("/readyz").status_code == 200

    def _children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def write_tone(path: Path, *, seconds: float) -> None:
    rate = 16_000
    times = np.arange(int(seconds * rate)) / rate
    samples = (0.3 * np.sin(2 * np.pi * 220 * times) * (1 + np.sin(2 * np.pi * 3 * times)) / 2 * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


def write_picture(path: Path, *, size: int) -> None:
    ramp = np.linspace(0, 255, size, dtype=np.uint8)
    pixels = np.stack(
        [np.tile(ramp, (size, 1)), np.tile(ramp[:, None], (1, size)), np.full((size, size), 90, np.uint8)], 2
    )
    Image.fromarray(pixels).save(path, format="PNG")
