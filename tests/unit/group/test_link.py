"""The group behind its socket: who is admitted, whose turn it is, and what becomes of renders when a side goes away."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.unit.group.conftest import MakeNamed, ignore, members_of, never, stand_in_group
from tests.waiting import wait_for
from worker.group.errors import (
    GroupFailed,
    GroupUnavailable,
    RenderCanceled,
    RenderDrained,
    RenderInterrupted,
    RenderRefused,
)
from worker.group.failures import RestartBudget
from worker.group.link import GroupLink, Session
from worker.group.request import RenderPhase, RenderProgress, RenderRequest, RenderResult
from worker.group.server import GroupServer
from worker.group.stations import Station, Stations
from worker.group.warm_group import GroupState, WarmGroup

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


def test_a_second_client_is_admitted_when_the_first_one_is_drawn_soon_and_is_drawn_after_it(
    node: Node, named: MakeNamed
) -> None:
    order: list[str] = []
    with node.link.session("job_1") as first:
        drawing = _Render(first, named("job_1", "blocks=30 seconds=0.05 file=1.0"), order)
        with node.link.session("job_2") as second:
            assert node.stations.counts()[Station.DRAWING] == 1
            following = _Render(second, named("job_2", "blocks=3"), order)
            wait_for(named("job_2").video.with_name("prepared").exists)
            assert node.stations.counts()[Station.WAITING] == 1
            assert node.server.current == "job_1"
            assert following.result().blocks == 3
            assert drawing.result().blocks == 30
    assert order == ["job_2", "job_1"], "the file of the first took longer than all of the second"
    phases = [progress.phase for progress in following.seen]
    assert phases[0] is RenderPhase.WAITING, "it heard that the one before it moved"
    assert phases[-4:] == [*[RenderPhase.RENDERING] * 3, RenderPhase.MUXING]


def test_a_client_is_not_admitted_while_the_drawing_has_long_to_go(
    node: Node, named: MakeNamed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.group.server.ADMISSION_TIMEOUT_S", 0.5)
    with node.link.session("job_1") as first:
        drawing = _Render(first, named("job_1", "blocks=100000"))
        wait_for(lambda: len(drawing.seen) >= 3)
        with pytest.raises(GroupUnavailable, match="busy"), node.link.session("job_2"):
            pass
        drawing.cancel()


def test_a_place_is_told_of_when_there_is_one(node: Node, named: MakeNamed, monkeypatch: pytest.MonkeyPatch) -> None:
    node.link.wait_for_place(until=never)  # at once
    monkeypatch.setattr("worker.group.stations.PREPARE_AHEAD_S", 0.3)
    with node.link.session("job_1") as first:
        drawing = _Render(first, named("job_1", "blocks=20 seconds=0.05"))
        node.link.wait_for_place(until=never)
        assert 14 <= drawing.seen[-1].blocks_done < 20
        drawing.result()
    gave_up = threading.Event()
    with node.link.session("job_2"):
        threading.Timer(0.3, gave_up.set).start()
        node.link.wait_for_place(until=gave_up.is_set)
        threading.Timer(0.3, node.server.drain).start()
        with pytest.raises(GroupUnavailable, match="draining"):
            node.link.wait_for_place(until=never)


def test_a_client_that_waits_can_be_canceled_and_leaves_its_place(node: Node, named: MakeNamed, tmp_path: Path) -> None:
    enough = tmp_path / "enough"
    with node.link.session("job_1") as first:
        drawing = _Render(first, named("job_1", f"blocks=60 seconds=0.05 until={enough}"))
        with node.link.session("job_2") as second:
            waiting = _Render(second, named("job_2"))
            mark = named("job_2").video.with_name("prepared")
            wait_for(mark.exists)
            waiting.cancel()
            wait_for(lambda: not mark.exists())
        with node.link.session("job_3") as third:
            following = _Render(third, named("job_3"))
            wait_for(named("job_3").video.with_name("prepared").exists)
            enough.touch()
            assert drawing.result().blocks == 60
            assert following.result().blocks == 5


def test_a_client_that_is_killed_while_it_waits_leaves_its_place(node: Node, named: MakeNamed, tmp_path: Path) -> None:
    enough = tmp_path / "enough"
    with node.link.session("job_1") as first:
        drawing = _Render(first, named("job_1", f"blocks=90 seconds=0.05 until={enough}"))
        client = _Client(node.link, named("job_2"))
        wait_for(lambda: node.stations.counts()[Station.WAITING] == 1, timeout_s=20)
        wait_for(named("job_2").video.with_name("prepared").exists)
        client.kill()
        assert wait_for(lambda: node.stations.counts()[Station.WAITING] == 0) < 2.0
        wait_for(lambda: not named("job_2").video.with_name("prepared").exists())
        enough.touch()
        assert drawing.result().blocks == 90


def test_a_client_that_is_killed_while_its_file_is_finished_leaves_no_file(node: Node, named: MakeNamed) -> None:
    pids = node.group.status.pids
    client = _Client(node.link, named("job_1", "file=2.0"))
    wait_for(lambda: node.stations.counts()[Station.FINISHING] == 1, timeout_s=20)
    client.kill()
    assert wait_for(lambda: node.stations.counts()[Station.FINISHING] == 0) < 1.0
    with node.link.session("job_2") as session:
        assert session.render(named("job_2", "file=2.0"), on_progress=ignore, should_cancel=never).blocks == 5
    assert not named("job_1").video.exists()
    assert node.group.status.pids == pids


def test_a_drain_sends_away_who_waits_and_lets_files_be_finished(node: Node, named: MakeNamed) -> None:
    with node.link.session("job_1") as first, ExitStack() as stack:
        finished = _Render(first, named("job_1", "blocks=2 file=1.0"))
        wait_for(lambda: node.stations.counts()[Station.FINISHING] == 1)
        drawn = _Render(stack.enter_context(node.link.session("job_2")), named("job_2", "blocks=100 seconds=0.05"))
        waiting = _Render(stack.enter_context(node.link.session("job_3")), named("job_3"))
        wait_for(lambda: node.stations.counts()[Station.WAITING] == 1)
        drained_at = time.monotonic()
        node.server.drain()
        for sent_away in (waiting, drawn):
            with pytest.raises(RenderDrained):
                sent_away.result()
        assert time.monotonic() - drained_at < 1.0
        assert finished.result().blocks == 2


def test_a_drawing_that_hangs_ends_by_its_deadline_and_who_waits_gets_the_next_group(
    node: Node, named: MakeNamed
) -> None:
    with node.link.session("job_1") as first, ExitStack() as stack:
        hanging = _Render(first, named("job_1", "rank=1 block=30 do=hang blocks=40 seconds=0.02"))
        waiting = _Render(stack.enter_context(node.link.session("job_2")), named("job_2"))
        wait_for(lambda: node.stations.counts()[Station.WAITING] == 1)
        with pytest.raises(GroupFailed) as failure:
            hanging.result()
        assert failure.value.code == "no_progress"
        assert waiting.result().blocks == 5
    assert node.group.status.restarts == 1


def test_who_waits_is_sent_away_when_the_group_stays_cold(
    node: Node, named: MakeNamed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.group.server.ADMISSION_TIMEOUT_S", 0.5)
    with node.link.session("job_1") as first, ExitStack() as stack:
        drawing = _Render(first, named("job_1", "blocks=40 seconds=0.05"))
        waiting = _Render(stack.enter_context(node.link.session("job_2")), named("job_2"))
        wait_for(lambda: node.stations.counts()[Station.WAITING] == 1)
        node.group.close()
        with pytest.raises(GroupFailed, match="closed"):
            drawing.result()
        with pytest.raises(GroupUnavailable, match="closed"):
            waiting.result()


def test_a_file_that_is_lost_with_the_group_is_no_crash_of_its_own(node: Node, named: MakeNamed) -> None:
    with node.link.session("job_1") as first, ExitStack() as stack:
        finishing = _Render(first, named("job_1", "file_do=hang"))
        wait_for(lambda: node.stations.counts()[Station.FINISHING] == 1)
        drawing = _Render(stack.enter_context(node.link.session("job_2")), named("job_2", "rank=1 do=kill"))
        with pytest.raises(GroupFailed):
            drawing.result()
        with pytest.raises(RenderInterrupted) as interrupted:
            finishing.result()
        assert interrupted.value.code == "group_died"


def _render_for_ever(link: GroupLink, request: RenderRequest) -> None:
    with link.session("job_1") as session:
        session.render(request, on_progress=ignore, should_cancel=never)


class _Client:
    """A process that renders."""

    def __init__(self, link: GroupLink, request: RenderRequest) -> None:
        self._process = multiprocessing.get_context("spawn").Process(target=_render_for_ever, args=(link, request))
        self._process.start()

    def kill(self) -> None:
        self._process.kill()
        self._process.join(timeout=5)


class _Render:
    """A render in a thread."""

    def __init__(self, session: Session, request: RenderRequest, order: list[str] | None = None) -> None:
        self.seen: list[RenderProgress] = []
        self._canceled = threading.Event()
        self._outcome: RenderResult | BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(session, request, [] if order is None else order))
        self._thread.start()

    def cancel(self) -> None:
        self._canceled.set()
        with pytest.raises(RenderCanceled):
            self.result()

    def result(self) -> RenderResult:
        self._thread.join(timeout=20)
        assert not self._thread.is_alive(), "it did not end in time"
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def _run(self, session: Session, request: RenderRequest, order: list[str]) -> None:
        try:
            self._outcome = session.render(request, on_progress=self.seen.append, should_cancel=self._canceled.is_set)
        except BaseException as error:  # noqa: BLE001 - raised by `result`
            self._outcome = error
        order.append(request.name)
