"""The node's health over HTTP, and its figures."""

import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.unit.group.conftest import stand_in_group
from worker.group.request import RenderPhase, RenderProgress
from worker.group.stations import Stations
from worker.group.warm_group import WarmGroup
from worker.health import HealthServer
from worker.node_metrics import NodeMetrics


@pytest.fixture
def ready() -> threading.Event:
    return threading.Event()


@pytest.fixture
def metrics() -> NodeMetrics:
    return NodeMetrics(WarmGroup(stand_in_group), stations=Stations())


@pytest.fixture
def url(ready: threading.Event, metrics: NodeMetrics) -> Iterator[str]:
    server = HealthServer(host="127.0.0.1", port=0, is_ready=ready.is_set, registry=metrics.registry)
    server.start()
    yield f"http://127.0.0.1:{server.port}"
    server.close()


def test_a_node_that_cannot_render_is_healthy_but_not_ready(url: str, ready: threading.Event) -> None:
    assert _get(url, "/healthz").status_code == 200
    assert _get(url, "/readyz").status_code == 503
    ready.set()
    assert _get(url, "/readyz").status_code == 200


def test_unknown_paths_are_not_found(url: str) -> None:
    assert _get(url, "/else").status_code == 404


def test_blocks_and_the_time_between_them_are_counted(url: str, metrics: NodeMetrics) -> None:
    metrics.on_progress(RenderProgress(RenderPhase.ENCODING, 0, None))
    for block in (1, 2, 3):
        metrics.on_progress(RenderProgress(RenderPhase.RENDERING, block, 3))
    metrics.on_progress(RenderProgress(RenderPhase.RENDERING, 1, 2))  # the next job: no gap across jobs
    metrics.on_progress(RenderProgress(RenderPhase.MUXING, 3, 3))  # the first one's file, meanwhile
    metrics.on_progress(RenderProgress(RenderPhase.RENDERING, 2, 2))
    text = _get(url, "/metrics").text
    assert "realvideo_blocks_total 5.0" in text
    assert "realvideo_block_seconds_count 3.0" in text
    assert "realvideo_group_restarts_total 0.0" in text
    assert "realvideo_group_ready 0.0" in text
    assert 'realvideo_group_state_seconds_total{state="starting"}' in text
    assert "realvideo_group_idle_share 0.0" in text
    assert "realvideo_dit_busy_seconds_total 0.0" in text
    assert 'realvideo_dit_idle_seconds_total{where="between_videos"} 0.0' in text
    assert 'realvideo_node_jobs{station="waiting"} 0.0' in text


def _get(url: str, path: str) -> httpx.Response:
    return httpx.get(f"{url}{path}", timeout=5, trust_env=False, verify=False)
