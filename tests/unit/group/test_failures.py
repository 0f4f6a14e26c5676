"""What counts against a node when its groups fail: its own failures one by one, a video's twice at most."""

import time

import pytest

from tests.unit.group.conftest import MakeNamed, ignore, never, stand_in_group
from worker.group.errors import GroupFailed
from worker.group.failures import Failures, RestartBudget
from worker.group.request import RenderRequest
from worker.group.warm_group import GroupState, WarmGroup


def test_failures_without_a_video_count_one_by_one() -> None:
    failures = Failures(RestartBudget(failures=2))
    for count in (1, 2, 3):
        assert not failures.are_too_many
        failures.add(video=None)
        assert failures.count == count
    assert failures.are_too_many


def test_two_poisoned_videos_do_not_spend_the_usual_budget_and_a_third_does() -> None:
    failures = Failures(RestartBudget())
    for video in ("a", "b"):
        for _ in range(3):
            failures.add(video=video)
            assert not failures.are_too_many
    failures.add(video="c")
    assert not failures.are_too_many
    failures.add(video="c")
    assert failures.are_too_many


def test_a_video_that_was_drawn_clears_the_node_of_what_failed_under_others_but_not_of_its_own() -> None:
    failures = Failures(RestartBudget())
    for video in ("a", "b", "c", "d", None):
        failures.add(video=video)
    failures.forgive()
    assert failures.count == 1


def test_failures_are_forgotten_in_time() -> None:
    failures = Failures(RestartBudget(within_s=0.05))
    failures.add(video=None)
    failures.add(video="a")
    assert failures.count == 2
    time.sleep(0.06)
    assert failures.count == 0


@pytest.mark.parametrize("is_one_drawn_between", [False, True])
def test_a_warm_group_that_many_videos_kill_lives_on_as_long_as_it_draws_others(
    named: MakeNamed, is_one_drawn_between: bool
) -> None:
    """A budget that one video, however often it kills, cannot spend, and two can."""
    budget = RestartBudget(failures=3, pause_s=0.01)
    warm = WarmGroup(lambda: stand_in_group(ranks=1), budget=budget)
    warm.start()
    try:
        for video in ("a", "b"):
            for attempt in (1, 2):
                warm.wait_until_ready(timeout_s=20)
                _kill_it(warm, named(f"{video}.{attempt}", "do=exit"))
            if is_one_drawn_between:
                warm.wait_until_ready(timeout_s=20)
                warm.render(named("sound.1"), on_progress=ignore, should_cancel=never)
        deadline = time.monotonic() + 20
        wanted = GroupState.READY if is_one_drawn_between else GroupState.UNHEALTHY
        while warm.status.state is not wanted:
            assert time.monotonic() < deadline, warm.status
            time.sleep(0.02)
    finally:
        warm.close()


def _kill_it(warm: WarmGroup, request: RenderRequest) -> None:
    with pytest.raises(GroupFailed):
        warm.render(request, on_progress=ignore, should_cancel=never)
