"""The group behind its socket: one client at a time, and what becomes of a render when either side goes away."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.group.conftest import ignore, members_of, never, stand_in_group, wait_for
from worker.group.errors import (
    GroupFailed,
    GroupUnavailable,
    RenderCanceled,
    RenderDrained,
    RenderInterrupted,
    RenderRefused,
)
from worker.group.link import GroupLink
from worker.group.request import RenderPhase, RenderProgress, RenderRequest
from worker.group.server import GroupServer
from worker.group.stations import Stations
from worker.group.warm_group import GroupState, RestartBudget, WarmGroup

RequestOf = Callable[[str], RenderRequest]


class Node:
    """What a node has: a warm group and its server."""

    def __init__(self, directory: Path) -> None:
        self.seen: list[RenderProgress] = []
        self.group = WarmGroup(
            lambda: stand_in_group(ranks=2, progress_deadline_s=2.0), budget=RestartBudget(pause_s=0.05)
        )
        self.stations = Stations()
        self.server = GroupServer(
            self.group, stations=self.stations, socket_path=directory / "group.sock", on_progress=self.seen.append
        )
        self.link = GroupLink(directory / "group.sock")


@pytest.fixture
def node(server_directory: Path) -> Iterator[Node]:
    node = Node(server_directory)
    node.group.start()
    node.server.start()
    try:
        node.group.wait_until_ready(timeout_s=20)
        yield node
    finally:
        node.server.close()
        node.group.close()


def test_a_client_renders_and_sees_its_progress(node: Node, request_of: RequestOf) -> None:
    seen: list[RenderProgress] = []
    with node.link.session("job_1") as session:
        assert node.server.current == "job_1"
        result = session.render(request_of("blocks=3"), on_progress=seen.append, should_cancel=never)
    assert result.blocks == 3
    assert [(progress.phase, progress.blocks_done) for progress in seen] == [
        (RenderPhase.RENDERING, 1), (RenderPhase.RENDERING, 2), (RenderPhase.RENDERING, 3), (RenderPhase.MUXING, 3),
    ]  # fmt: skip
    assert node.seen == seen
    wait_for(lambda: node.server.current is None)


def test_a_client_that_cancels_gets_its_render_stopped(node: Node, request_of: RequestOf) -> None:
    seen: list[RenderProgress] = []
    with node.link.session("job_1") as session:
        with pytest.raises(RenderCanceled):
            session.render(request_of("blocks=1000"), on_progress=seen.append, should_cancel=lambda: len(seen) >= 2)
        assert session.render(request_of(""), on_progress=ignore, should_cancel=never).blocks == 5


def test_refusals_and_interruptions_reach_the_client(node: Node, request_of: RequestOf) -> None:
    with node.link.session("job_1") as session:
        with pytest.raises(RenderRefused, match="cannot be rendered"):
            session.render(request_of("do=refuse"), on_progress=ignore, should_cancel=never)
        with pytest.raises(RenderInterrupted, match="no space left"):
            session.render(request_of("do=interrupt"), on_progress=ignore, should_cancel=never)


def test_a_group_that_fails_is_told_to_the_client_and_is_warm_again_for_its_next_render(
    node: Node, request_of: RequestOf
) -> None:
    with node.link.session("job_1") as session:
        with pytest.raises(GroupFailed) as failure:
            session.render(request_of("rank=1 do=kill"), on_progress=ignore, should_cancel=never)
        assert failure.value.code == "rank_died"
        assert session.render(request_of(""), on_progress=ignore, should_cancel=never).blocks == 5


def test_a_killed_client_gets_its_render_stopped_and_frees_the_group(node: Node, request_of: RequestOf) -> None:
    pids = node.group.status.pids
    client = multiprocessing.get_context("spawn").Process(
        target=_render_for_ever, args=(node.link, request_of("blocks=100000"))
    )
    client.start()
    wait_for(lambda: len(node.seen) >= 2, timeout_s=20)
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    assert wait_for(lambda: node.group.status.state is GroupState.READY) < 2.0
    client.join(timeout=5)
    with node.link.session("job_2") as session:
        assert session.render(request_of(""), on_progress=ignore, should_cancel=never).blocks == 5
    assert node.group.status.pids == pids


def test_a_frozen_client_loses_its_render(node: Node, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.group.server.SILENCE_TIMEOUT_S", 1.0)
    client = multiprocessing.get_context("spawn").Process(
        target=_render_for_ever, args=(node.link, request_of("blocks=100000"))
    )
    client.start()
    wait_for(lambda: len(node.seen) >= 2, timeout_s=20)
    assert client.pid is not None
    os.kill(client.pid, signal.SIGSTOP)
    wait_for(lambda: node.group.status.state is GroupState.READY, timeout_s=5)
    client.kill()
    client.join(timeout=5)


def test_a_client_that_only_waits_says_that_it_is_there(
    node: Node, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.group.server.SILENCE_TIMEOUT_S", 1.0)
    monkeypatch.setattr("worker.group.link.SIGN_OF_LIFE_EVERY_S", 0.2)
    with node.link.session("job_1") as session:
        result = session.render(request_of("blocks=2 seconds=0.8"), on_progress=ignore, should_cancel=never)
    assert result.blocks == 2


def test_a_drain_stops_the_render_for_another_node_to_make(node: Node, request_of: RequestOf) -> None:
    with node.link.session("job_1") as session:
        threading.Timer(0.3, node.server.drain).start()
        with pytest.raises(RenderDrained):
            session.render(request_of("blocks=100000"), on_progress=ignore, should_cancel=never)
    with pytest.raises(GroupUnavailable, match="draining"), node.link.session("job_2"):
        pass


def test_a_group_that_is_closed_in_a_drain_does_not_look_like_a_crash(node: Node, request_of: RequestOf) -> None:
    def drain_in_haste() -> None:
        node.server.drain()
        node.group.close()

    pids = node.group.status.pids
    with node.link.session("job_1") as session:
        threading.Timer(0.3, drain_in_haste).start()
        with pytest.raises(RenderDrained):
            session.render(request_of("rank=1 block=3 do=hang"), on_progress=ignore, should_cancel=never)
    assert members_of(pids) == []


def test_a_client_is_turned_away_when_the_group_stays_cold(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.group.server.ADMISSION_TIMEOUT_S", 0.3)
    node.group.close()
    with pytest.raises(GroupUnavailable, match="closed"), node.link.session("job_1"):
        pass


def test_a_socket_may_lie_at_a_path_longer_than_an_address(server_directory: Path) -> None:
    deep = server_directory / ("d" * 120)
    deep.mkdir()
    server = GroupServer(
        WarmGroup(stand_in_group), stations=Stations(), socket_path=deep / "group.sock", on_progress=ignore
    )
    server.start()
    server.drain()
    with pytest.raises(GroupUnavailable, match="draining"), GroupLink(deep / "group.sock").session("job_1"):
        pass
    server.close()


def test_a_node_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(GroupUnavailable, match="does not listen"), GroupLink(tmp_path / "none.sock").session("job_1"):
        pass
    assert time.monotonic() - started < 1.0


def _render_for_ever(link: GroupLink, request: RenderRequest) -> None:
    with link.session("job_1") as session:
        session.render(request, on_progress=ignore, should_cancel=never)
