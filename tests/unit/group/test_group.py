"""A group of real processes with a stand-in network: how a render ends, and what is left when ranks die."""

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from tests.unit.group.conftest import ignore, members_of, never, stand_in_group
from tests.waiting import wait_for
from worker.group.errors import GroupFailed, GroupRefused, RenderCanceled, RenderInterrupted, RenderRefused
from worker.group.group import Group
from worker.group.request import RenderPhase, RenderProgress, RenderRequest

RequestOf = Callable[[str], RenderRequest]


def test_renders_follow_each_other_in_the_same_processes(group: Group, request_of: RequestOf) -> None:
    pids = group.pids
    seen: list[RenderProgress] = []
    for _ in range(2):
        result = group.render(request_of("blocks=3"), on_progress=seen.append, should_cancel=never)
        assert result.blocks == 3
        assert result.video.read_text() == str(pids[0])
    assert [progress.blocks_done for progress in seen if progress.phase is RenderPhase.RENDERING] == [1, 2, 3, 1, 2, 3]
    assert group.pids == pids
    assert [device.name for device in group.devices] == ["stand-in"] * 3


def test_a_cancel_ends_the_render_within_a_block_and_the_group_stays(group: Group, request_of: RequestOf) -> None:
    pids = group.pids
    seen: list[RenderProgress] = []
    with pytest.raises(RenderCanceled):
        group.render(
            request_of("blocks=1000 seconds=0.05"), on_progress=seen.append, should_cancel=lambda: len(seen) >= 3
        )
    assert len(seen) <= 3 + 4  # asked every tenth of a second, two blocks each
    assert group.render(request_of(""), on_progress=ignore, should_cancel=never).blocks == 5
    assert group.pids == pids


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize(
    ("how", "code", "words"),
    [
        ("kill", "rank_died", "was killed by SIGKILL"),
        ("exit", "rank_died", "exited with status 3"),
        ("raise", "rank_failed", "illegal memory access"),
        ("memory", "out_of_memory", "out of memory"),
    ],
)
def test_a_rank_that_ends_takes_the_whole_group_down_at_once(
    group: Group, request_of: RequestOf, rank: int, how: str, code: str, words: str
) -> None:
    pids = group.pids
    started = time.monotonic()
    with pytest.raises(GroupFailed) as failure:
        group.render(request_of(f"child=1 rank={rank} block=1 do={how}"), on_progress=ignore, should_cancel=never)
    assert time.monotonic() - started < 5.0
    assert failure.value.code == code
    assert f"rank {rank} " in failure.value.message
    assert words in failure.value.message
    assert members_of(pids) == []  # neither ranks nor the processes they had started


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("how", ["stop", "hang"])
def test_a_rank_that_stops_moving_is_found_by_the_progress_deadline(
    group: Group, request_of: RequestOf, rank: int, how: str
) -> None:
    pids = group.pids
    started = time.monotonic()
    with pytest.raises(GroupFailed) as failure:
        group.render(request_of(f"rank={rank} block=2 do={how}"), on_progress=ignore, should_cancel=never)
    assert failure.value.code == "no_progress"
    assert 1.0 < time.monotonic() - started < 5.0
    assert members_of(pids) == []


@pytest.mark.parametrize("is_idle", [False, True])
def test_a_stopped_rank_takes_its_group_down_within_five_seconds_whatever_the_deadline(
    request_of: RequestOf, is_idle: bool
) -> None:
    with stand_in_group() as group:
        pids = group.pids
        started = time.monotonic()
        if is_idle:
            os.kill(pids[1], signal.SIGSTOP)
            assert group.wait_until_down(timeout_s=5.0)
        with pytest.raises(GroupFailed) as failure:
            group.render(request_of("rank=1 block=1 do=stop"), on_progress=ignore, should_cancel=never)
        assert time.monotonic() - started < 5.0
        assert failure.value.code == "rank_stopped"
        assert members_of(pids) == []


def test_a_rank_that_is_stopped_for_a_moment_goes_on(request_of: RequestOf) -> None:
    with stand_in_group(ranks=2) as group:
        pids = group.pids
        for _ in range(2):  # so that the times do not add up
            os.kill(pids[1], signal.SIGSTOP)
            assert not group.wait_until_down(timeout_s=1.2)
            os.kill(pids[1], signal.SIGCONT)
            assert group.render(request_of("blocks=3"), on_progress=ignore, should_cancel=never).blocks == 3
        assert group.pids == pids


def test_a_killed_idle_rank_is_found_by_the_next_check(group: Group) -> None:
    pids = group.pids
    os.kill(pids[1], signal.SIGKILL)
    with pytest.raises(GroupFailed, match="rank 1 was killed by SIGKILL"):
        group.check()
    assert group.is_down
    assert members_of(pids) == []


def test_a_stopped_idle_rank_is_found_because_it_does_not_answer(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.group.group.PING_TIMEOUT_S", 0.5)
    os.kill(group.pids[2], signal.SIGSTOP)
    with pytest.raises(GroupFailed, match=r"idle ranks \[2\] do not answer"):
        group.check()


def test_a_check_of_a_healthy_group_changes_nothing(group: Group, request_of: RequestOf) -> None:
    for _ in range(3):
        group.check()
        assert group.render(request_of("blocks=1"), on_progress=ignore, should_cancel=never).blocks == 1


def test_a_group_that_is_down_renders_no_more(group: Group, request_of: RequestOf) -> None:
    with pytest.raises(GroupFailed):
        group.render(request_of("do=exit"), on_progress=ignore, should_cancel=never)
    with pytest.raises(GroupFailed, match="exited with status 3"):
        group.render(request_of(""), on_progress=ignore, should_cancel=never)


def test_inputs_that_cannot_be_rendered_leave_the_group_as_it_was(group: Group, request_of: RequestOf) -> None:
    pids = group.pids
    with pytest.raises(RenderRefused) as refused:
        group.render(request_of("block=1 do=refuse"), on_progress=ignore, should_cancel=never)
    assert refused.value.code == "invalid_render"
    with pytest.raises(RenderInterrupted) as interrupted:
        group.render(request_of("block=1 do=interrupt"), on_progress=ignore, should_cancel=never)
    assert interrupted.value.code == "disk_full"
    assert group.render(request_of(""), on_progress=ignore, should_cancel=never).blocks == 5
    assert group.pids == pids


def test_a_caller_that_raises_in_mid_render_leaves_no_process(group: Group, request_of: RequestOf) -> None:
    pids = group.pids

    def hang_up(progress: RenderProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        group.render(request_of("blocks=100"), on_progress=hang_up, should_cancel=never)
    assert group.is_down
    assert members_of(pids) == []


def test_an_impossible_group_is_refused_with_the_reason_of_its_rank() -> None:
    group = stand_in_group(preset="impossible", ranks=2)
    with pytest.raises(GroupRefused, match="possible: 1, 2, 3"):
        group.start()
    assert group.pids == ()


def test_a_rank_that_fails_while_it_loads_fails_the_start() -> None:
    with pytest.raises(GroupFailed, match="the weights are torn"):
        stand_in_group(preset="broken", ranks=2).start()


def test_a_group_that_is_not_ready_in_time_fails_the_start() -> None:
    with pytest.raises(GroupFailed) as failure:
        stand_in_group(preset="slow", ranks=1, start_deadline_s=0.5).start()
    assert failure.value.code == "start_timeout"


@pytest.mark.parametrize("orders", ["", "blocks=1000", "rank=1 do=hang", "file_do=hang"])
def test_close_ends_every_rank_whatever_it_does(request_of: RequestOf, orders: str) -> None:
    group = stand_in_group()
    group.start()
    pids = group.pids
    failures: list[GroupFailed] = []
    renders = threading.Thread(target=_render_until_failure, args=(group, request_of(orders), failures))
    if orders:
        renders.start()
        wait_for(group._in_use.locked)
    group.close()
    assert members_of(pids) == []
    if orders:
        renders.join(timeout=5)
        assert [failure.code for failure in failures] == ["closed"]


def _render_until_failure(group: Group, request: RenderRequest, failures: list[GroupFailed]) -> None:
    try:
        group.render(request, on_progress=ignore, should_cancel=never)
    except GroupFailed as failure:
        failures.append(failure)
