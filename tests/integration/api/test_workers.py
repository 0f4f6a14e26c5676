"""GPU nodes over HTTP."""

import datetime as dt

import httpx

from models.database import Database
from models.worker_node import NodeState, WorkerNode
from tests.integration.api.running import BODY, problem


def test_nodes_are_listed_and_a_silent_one_is_offline(
    client: httpx.Client, stranger: httpx.Client, database: Database
) -> None:
    job_id = client.post("/v1/jobs", json=BODY).json()["id"]
    now = dt.datetime.now(dt.UTC)
    devices = [{"name": "H200", "memory_total_bytes": 150, "memory_used_bytes": 100}]
    with database.transaction() as session:
        for name, state, seen in (
            ("gpu/1", NodeState.BUSY, now),
            ("gpu-2", NodeState.READY, now - dt.timedelta(minutes=2)),
            ("gpu-3", NodeState.STOPPED, now),
        ):
            session.add(
                WorkerNode(
                    name=name, state=state, preset="14b", ranks=3, devices=devices, current_job_id=job_id, version="1",
                    last_seen_at=seen,
                )
            )  # fmt: skip

    first = client.get("/v1/workers", params={"limit": 2}).json()
    rest = client.get("/v1/workers", params={"limit": 2, "after": first["next"]}).json()
    nodes = {node["name"]: node for node in first["data"] + rest["data"]}

    assert {name: node["online"] for name, node in nodes.items()} == {"gpu/1": True, "gpu-2": False, "gpu-3": False}
    assert nodes["gpu/1"]["devices"] == devices
    assert nodes["gpu/1"]["current_job_id"] == job_id
    assert client.get("/v1/workers/gpu-2").json() == nodes["gpu-2"]
    assert client.get("/v1/workers/gpu%2F1").json() == nodes["gpu/1"]
    assert stranger.get("/v1/workers/gpu-2").json()["current_job_id"] is None
    assert problem(client.get("/v1/workers/gpu-9")) == (404, "not_found")
