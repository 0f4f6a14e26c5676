"""What an operator may write into the environment of a worker."""

import os

import pytest
from pydantic import ValidationError

from models.queues import Priority, render_queues
from worker.layout import Plan, Replica
from worker.machine import replica_settings
from worker.pipeline.precision import MemoryUse, Precision
from worker.settings import WorkerSettings

NEEDED = {
    "DATABASE_URL": "postgresql://nowhere",
    "BROKER_URL": "redis://nowhere",
    "REALVIDEO_STORAGE_DIRECTORY": "/nowhere",
    "REALVIDEO_STORAGE_SECRET": "of no use here",
    "REALVIDEO_NODE_NAME": "box",
}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("REALVIDEO_"):
            monkeypatch.delenv(name)
    for name, value in NEEDED.items():
        monkeypatch.setenv(name, value)


def read(monkeypatch: pytest.MonkeyPatch, **variables: str) -> WorkerSettings:
    for name, value in variables.items():
        monkeypatch.setenv(f"REALVIDEO_{name}", value)
    return WorkerSettings()


def test_options_of_the_gpus_are_read_and_handed_to_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(
        monkeypatch, PRECISION="fp8-attention", MEMORY="low", LAYOUT="1x3", GPUS="[0, 0, 1]", PRIORITIES='["high"]'
    )
    assert (settings.layout, settings.gpus, settings.priorities) == ("1x3", (0, 0, 1), (Priority.HIGH,))
    group = settings.group_settings()
    assert (group.precision, group.memory, group.gpus) == (Precision.FP8_ATTENTION, MemoryUse.LOW, (0, 0, 1))
    assert render_queues("tiny", settings.priorities) == ("render.tiny.high",)


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch, PRECISION="", MEMORY="", LAYOUT="", GPUS="", PRIORITIES="", RANKS="")
    assert (settings.precision, settings.memory, settings.layout) == (None, MemoryUse.AMPLE, "auto")
    assert (settings.gpus, settings.ranks, settings.priorities) == (None, None, tuple(Priority))


@pytest.mark.parametrize(
    "variables",
    [
        {"LAYOUT": "fastest"},
        {"LAYOUT": "0x2"},
        {"LAYOUT": "latency", "RANKS": "2"},
        {"PRECISION": "int4"},
        {"PRIORITIES": "[]"},
        {"GPUS": "[]"},
    ],
)
def test_what_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        read(monkeypatch, **variables)


def test_replicas_have_names_ports_gpus_and_a_share_of_the_cores_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    settings = read(monkeypatch, HEALTH_PORT="9000", LAYOUT="2x2", GPUS="[3, 2, 1, 0]", PRECISION="fp8")
    made = Plan("2x2", (Replica(2, (3, 2)), Replica(2, (1, 0))))
    first, second = (replica_settings(settings, made, number) for number in range(2))
    assert [(one.node_name, one.health_port) for one in (first, second)] == [("box-0", 9000), ("box-1", 9001)]
    assert [(one.ranks, one.gpus) for one in (first, second)] == [(2, (3, 2)), (2, (1, 0))]
    assert {one.threads_per_rank for one in (first, second)} == {4}
    assert second.group_settings().precision is Precision.FP8
    assert second.node_directory != first.node_directory


def test_the_only_replica_has_the_workers_own_name_and_port(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch, HEALTH_PORT="9000")
    only = replica_settings(settings, Plan("throughput", (Replica(1, (0,)),)), 0)
    assert (only.node_name, only.health_port, only.ranks, only.gpus) == ("box", 9000, 1, (0,))


def test_a_port_beyond_the_last_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch, HEALTH_PORT="65535")
    with pytest.raises(ValidationError, match="health_port"):
        replica_settings(settings, Plan("2x1", (Replica(1), Replica(1))), 1)
