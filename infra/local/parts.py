"""The parts of the local stack that are our own programs: how each is started and when it is ready.

Knows commands, environment variables and signs of readiness. Each part is started as docker-compose.yml starts it, by
its `realvideo` command.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from signal import SIGTERM

import psycopg

from infra.local.process import ServerProcess
from infra.local.state import Secrets
from models.database import psycopg_url
from models.worker_node import NodeState

RANKS_OF_SMALL_PRESETS = {"avatar": 2, "tiny": 3}
"""Processes of the worker's only group, on processors."""
ASK_TIMEOUT_S = 2
API_START_TIMEOUT_S = 60.0
SENDER_START_TIMEOUT_S = 60.0
WORKER_START_TIMEOUT_S = 240.0
"""Importing torch takes ten seconds on an idle machine, and much longer in three processes on two busy cores."""


@dataclass(frozen=True)
class Part:
    """One program of ours and when to believe that it works."""

    name: str
    process: ServerProcess
    is_ready: Callable[[], bool]
    start_timeout_s: float
    stop_timeout_s: float


@dataclass(frozen=True)
class Surroundings:
    """What the parts share."""

    database_url: str
    broker_url: str
    directory: Path
    secrets: Secrets
    api_port: int
    preset: str
    ranks: int | None
    """Of the worker's only group; None: the layout decides."""
    layout: str
    node_name: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    def environment(self) -> dict[str, str]:
        """The variables of every part. Of the defaults, the caller's environment may set others."""
        defaults = {
            "REALVIDEO_PUBLIC_URL": self.url,
            "REALVIDEO_SESSION_SECRET": self.secrets.session_secret,
            "REALVIDEO_ALLOW_HTTP_URLS": "true",  # so that a webhook receiver on this machine can be used
        }
        if "REALVIDEO_S3_BUCKET" not in os.environ:
            defaults["REALVIDEO_STORAGE_DIRECTORY"] = str(self.directory / "objects")
            defaults["REALVIDEO_STORAGE_SECRET"] = self.secrets.storage_secret
        if self.preset in RANKS_OF_SMALL_PRESETS:
            defaults["REALVIDEO_DEVICE"] = "cpu"  # ranks of one group cannot share a GPU, and there may be only one
        group = {"REALVIDEO_LAYOUT": self.layout} | ({} if self.ranks is None else {"REALVIDEO_RANKS": str(self.ranks)})
        return {
            **{name: value for name, value in defaults.items() if name not in os.environ},
            "DATABASE_URL": self.database_url,
            "BROKER_URL": self.broker_url,
            "REALVIDEO_API_PORT": str(self.api_port),
            "REALVIDEO_PRESETS": f'["{self.preset}"]',
            "REALVIDEO_PRESET": self.preset,
            **group,
            "REALVIDEO_NODE_NAME": self.node_name,
            "REALVIDEO_WORK_DIRECTORY": str(self.directory / "work"),
        }


def our_parts(around: Surroundings) -> Sequence[Part]:
    """In the order of starting."""
    environment = around.environment()
    return (
        Part(
            "API",
            _command("api", around, environment),
            is_ready=lambda: _api_is_ready(around.api_port),
            start_timeout_s=API_START_TIMEOUT_S,
            stop_timeout_s=10,
        ),
        Part(
            "scheduler",
            _command("scheduler", around, environment),
            is_ready=lambda: _is_connected(around.database_url, "scheduler"),
            start_timeout_s=SENDER_START_TIMEOUT_S,
            stop_timeout_s=10,
        ),
        Part(
            "webhook sender",
            _command("webhooks", around, environment),
            is_ready=lambda: True,
            start_timeout_s=SENDER_START_TIMEOUT_S,
            stop_timeout_s=10,
        ),
        Part(
            f"worker ({_group_in_words(around)})",
            _command("worker", around, environment),
            is_ready=lambda: _has_warm_node(around),
            start_timeout_s=WORKER_START_TIMEOUT_S,
            stop_timeout_s=30,
        ),
    )


def _group_in_words(around: Surroundings) -> str:
    if around.ranks is None:
        return f"layout {around.layout}"
    return f"{around.ranks} rank{'s' if around.ranks > 1 else ''}"


def _command(command: str, around: Surroundings, environment: Mapping[str, str]) -> ServerProcess:
    return ServerProcess(
        command,
        [sys.executable, "-m", "cli.main", command],
        log=around.logs / f"{command}.log",
        stop_signal=SIGTERM,
        environment=environment,
    )


def _api_is_ready(port: int) -> bool:
    """Without `httpx`, whose every new client loads certificates: 20 ms of a core on which the parts are starting."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=ASK_TIMEOUT_S)) as connection:
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == HTTPStatus.OK
        except (OSError, HTTPException):
            return False


def _is_connected(database_url: str, program: str) -> bool:
    """Whether a program of ours has a connection to the record: the last thing before its loop."""
    query = "SELECT 1 FROM pg_stat_activity WHERE application_name LIKE %s AND datname = current_database()"
    return _finds(database_url, query, f"%{program}%")


def _has_warm_node(around: Surroundings) -> bool:
    """Of a layout with several nodes, which have numbers behind the name, the first to be ready will do."""
    query = """
        SELECT 1 FROM worker_nodes WHERE (name = %s OR name ~ ('^' || %s || '-[0-9]+$')) AND state = %s
           AND last_seen_at > now() - interval '1 minute'
    """
    return _finds(around.database_url, query, around.node_name, around.node_name, NodeState.READY)


def _finds(database_url: str, query: str, *values: str) -> bool:
    plain = psycopg_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        with psycopg.connect(plain, connect_timeout=ASK_TIMEOUT_S) as connection:
            return connection.execute(query, values).fetchone() is not None
    except psycopg.OperationalError:
        return False
