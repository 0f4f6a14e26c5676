"""The group that comes back: relaunch after a failure, the budget, and configurations that can never start."""

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from tests.unit.group.conftest import ignore, members_of, never, stand_in_group
from tests.waiting import wait_for
from worker.group.errors import GroupFailed, GroupUnavailable
from worker.group.failures import RestartBudget
from worker.group.request import RenderRequest
from worker.group.warm_group import GroupState, WarmGroup

RequestOf = Callable[[str], RenderRequest]


def test_a_failed_group_is_launched_again_and_renders(request_of: RequestOf) -> None:
    warm = WarmGroup(lambda: stand_in_group(ranks=2), budget=RestartBudget(pause_s=0.05))
    warm.start()
    try:
        warm.wait_until_ready(timeout_s=20)
        first = warm.status.pids
        with pytest.raises(GroupFailed):
            warm.render(request_of("rank=1 do=kill"), on_progress=ignore, should_cancel=never)
        assert members_of(first) == []
        warm.wait_until_ready(timeout_s=20)
        assert warm.render(request_of(""), on_progress=ignore, should_cancel=never).blocks == 5
        status = warm.status
        assert not set(first) & set(status.pids)
        assert (status.state, status.restarts) == (GroupState.READY, 1)
        assert status.reason is not None
        assert "SIGKILL" in status.reason
    finally:
        warm.close()
    assert members_of(status.pids) == []
    assert warm.status.state is GroupState.CLOSED


def test_an_idle_rank_that_dies_is_replaced_without_a_render(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.group.warm_group.CHECK_EVERY_S", 0.1)
    warm = WarmGroup(lambda: stand_in_group(ranks=2), budget=RestartBudget(pause_s=0.05))
    warm.start()
    try:
        warm.wait_until_ready(timeout_s=20)
        first = warm.status.pids
        os.kill(first[0], signal.SIGKILL)
        wait_for(lambda: warm.status.restarts == 1)
        warm.wait_until_ready(timeout_s=20)
        assert not set(first) & set(warm.status.pids)
    finally:
        warm.close()


def test_a_group_that_fails_too_often_is_given_up() -> None:
    budget = RestartBudget(failures=2, within_s=60, pause_s=0.01)
    warm = WarmGroup(lambda: stand_in_group(preset="broken", ranks=1), budget=budget)
    warm.start()
    try:
        with pytest.raises(GroupUnavailable, match="the weights are torn"):
            warm.wait_until_ready(timeout_s=20)
        assert warm.status.state is GroupState.UNHEALTHY
        assert warm.status.restarts == 2
    finally:
        warm.close()


def test_failures_long_ago_do_not_count(request_of: RequestOf) -> None:
    warm = WarmGroup(lambda: stand_in_group(ranks=1), budget=RestartBudget(failures=1, within_s=0.05, pause_s=0.1))
    warm.start()
    try:
        for _ in range(3):
            warm.wait_until_ready(timeout_s=20)
            with pytest.raises(GroupFailed):
                warm.render(request_of("do=exit"), on_progress=ignore, should_cancel=never)
        warm.wait_until_ready(timeout_s=20)
    finally:
        warm.close()


def test_an_impossible_configuration_is_not_tried_again() -> None:
    warm = WarmGroup(lambda: stand_in_group(preset="impossible", ranks=1))
    warm.start()
    try:
        with pytest.raises(GroupUnavailable, match="possible: 1, 2, 3"):
            warm.wait_until_ready(timeout_s=20)
        assert warm.status.state is GroupState.REFUSED
        assert warm.status.restarts == 0
    finally:
        warm.close()


def test_close_while_the_ranks_are_loading_leaves_none() -> None:
    warm = WarmGroup(lambda: stand_in_group(preset="slow", ranks=2))
    warm.start()
    wait_for(lambda: len(warm.status.pids) == 2)
    pids = warm.status.pids
    started = time.monotonic()
    warm.close()
    assert time.monotonic() - started < 5
    assert members_of(pids) == []
    assert warm.status.state is GroupState.CLOSED


def test_the_time_in_each_state_adds_up(request_of: RequestOf) -> None:
    warm = WarmGroup(lambda: stand_in_group(ranks=1))
    started = time.monotonic()
    warm.start()
    try:
        warm.wait_until_ready(timeout_s=20)
        warm.render(request_of("blocks=5 seconds=0.1"), on_progress=ignore, should_cancel=never)
        seconds = warm.seconds_in_states()
        assert seconds[GroupState.BUSY] >= 0.5
        assert sum(seconds.values()) == pytest.approx(time.monotonic() - started, abs=0.2)
    finally:
        warm.close()


def test_a_second_render_is_turned_away_while_one_runs(request_of: RequestOf) -> None:
    warm = WarmGroup(lambda: stand_in_group(ranks=1))
    warm.start()
    stop = threading.Event()
    try:
        warm.wait_until_ready(timeout_s=20)
        first = threading.Thread(target=_render_until, args=(warm, request_of("blocks=1000"), stop))
        first.start()
        wait_for(lambda: warm.status.state is GroupState.BUSY)
        with pytest.raises(GroupUnavailable, match="busy"):
            warm.render(request_of(""), on_progress=ignore, should_cancel=never)
        stop.set()
        first.join(timeout=10)
        wait_for(lambda: warm.status.state is GroupState.READY)
    finally:
        warm.close()


def _render_until(warm: WarmGroup, request: RenderRequest, stop: threading.Event) -> None:
    from worker.group.errors import RenderCanceled

    with pytest.raises(RenderCanceled):
        warm.render(request, on_progress=ignore, should_cancel=stop.is_set)
