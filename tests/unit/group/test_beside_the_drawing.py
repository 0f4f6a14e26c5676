"""What a group of real processes does beside the drawing: the next video is prepared, the last ones' files finished."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tests.unit.group.conftest import MakeNamed, ignore, members_of, never, stand_in_group
from tests.waiting import wait_for
from worker.group.errors import GroupFailed, RenderCanceled, RenderInterrupted
from worker.group.group import DrawnVideo, Group
from worker.group.request import RenderPhase, RenderProgress, RenderRequest


@pytest.fixture
def group() -> Iterator[Group]:
    with stand_in_group(ranks=2, progress_deadline_s=2.0, finish_deadline_s=1.0) as group:
        yield group


def test_the_file_of_one_video_is_finished_while_the_next_is_drawn(group: Group, named: MakeNamed) -> None:
    first = _draw(group, named("first", "file=0.5"))
    seen: list[RenderProgress] = []
    second = group.draw(
        named("second", "blocks=10 seconds=0.02"), wanted_since=0.0, on_progress=seen.append, should_cancel=never
    )
    assert sum(progress.phase is RenderPhase.RENDERING for progress in seen) == 10
    assert {progress.blocks_total for progress in seen} == {10}, "nothing is heard of the first here"
    assert not named("first").video.exists()
    assert _finish(first) == 5
    assert _finish(second) == 10


def test_the_next_video_is_prepared_while_one_is_drawn(group: Group, named: MakeNamed) -> None:
    following = named("following")
    mark = following.video.with_name("prepared")
    prepared_at_block = []

    def announce_at_the_first_block(progress: RenderProgress) -> None:
        if progress.blocks_done == 1:
            group.announce(following)
        if mark.exists():
            prepared_at_block.append(progress.blocks_done)

    group.draw(
        named("first", "blocks=8 seconds=0.05"),
        wanted_since=0.0,
        on_progress=announce_at_the_first_block,
        should_cancel=never,
    )
    assert prepared_at_block
    assert prepared_at_block[0] < 8
    assert _finish(_draw(group, following)) == 5


def test_a_video_that_was_prepared_and_is_not_wanted_is_let_go(group: Group, named: MakeNamed) -> None:
    request = named("unwanted")
    group.announce(request)
    wait_for(request.video.with_name("prepared").exists)
    group.forget(request.name)
    wait_for(lambda: not request.video.with_name("prepared").exists())
    assert group.render(named("other"), on_progress=ignore, should_cancel=never).blocks == 5


@pytest.mark.parametrize(
    ("orders", "code"),
    [("file_do=interrupt", "node_disk"), ("file_do=raise", "internal_error"), ("file_do=hang", "ffmpeg_failed")],
)
def test_a_file_that_fails_fails_its_own_video_only(group: Group, named: MakeNamed, orders: str, code: str) -> None:
    pids = group.pids
    broken = _draw(group, named("broken", orders))
    sound = _draw(group, named("sound", "file=0.2"))
    with pytest.raises(RenderInterrupted) as interrupted:
        _finish(broken)
    assert interrupted.value.code == code
    assert _finish(sound) == 5
    assert group.render(named("next"), on_progress=ignore, should_cancel=never).blocks == 5
    assert group.pids == pids


def test_a_cancel_leaves_the_file_at_once_and_nothing_else(group: Group, named: MakeNamed) -> None:
    canceled, other = _draw(group, named("canceled", "file=30")), _draw(group, named("other", "file=0.2"))
    started = time.monotonic()
    with pytest.raises(RenderCanceled):
        canceled.finish(on_progress=ignore, should_cancel=lambda: True)
    assert time.monotonic() - started < 1.0
    assert not named("canceled").video.exists()
    assert _finish(other) == 5


def test_a_group_that_goes_down_takes_files_with_it_and_each_is_told(group: Group, named: MakeNamed) -> None:
    pids = group.pids
    files = [_draw(group, named(name, "file_do=hang")) for name in ("first", "second")]
    failures: list[GroupFailed] = []
    waiting = [threading.Thread(target=_finish_until_failure, args=(file, failures)) for file in files]
    for thread in waiting:
        thread.start()
    with pytest.raises(GroupFailed):
        group.draw(named("third", "rank=1 block=1 do=kill"), wanted_since=0.0, on_progress=ignore, should_cancel=never)
    for thread in waiting:
        thread.join(timeout=5)
    assert [failure.code for failure in failures] == ["rank_died"] * 2
    assert members_of(pids) == []


def test_a_rank_that_dies_while_only_files_are_finished_is_noticed_at_once(group: Group, named: MakeNamed) -> None:
    file = _draw(group, named("first", "file_do=hang"))
    os.kill(group.pids[0], signal.SIGKILL)
    with pytest.raises(GroupFailed, match="rank 0 was killed by SIGKILL"):
        _finish(file)
    assert group.is_down


def test_two_renders_of_one_name_are_a_mistake_of_the_caller(group: Group, named: MakeNamed) -> None:
    file = _draw(group, named("same", "file=0.3"))
    with pytest.raises(ValueError, match="same is rendered already"):
        _draw(group, named("same"))
    assert _finish(file) == 5


def test_the_dit_waits_only_while_a_video_is_wanted(group: Group, named: MakeNamed) -> None:
    _finish(_draw(group, named("first", "blocks=2 seconds=0.1")))
    time.sleep(0.3)  # nobody wants anything
    wanted_since = time.monotonic()
    time.sleep(0.2)
    before = group.dit_seconds
    group.draw(
        named("second", "blocks=1 seconds=0.1"), wanted_since=wanted_since, on_progress=ignore, should_cancel=never
    )
    wait_for(lambda: group.dit_seconds.busy > before.busy)
    assert before.busy == pytest.approx(0.2)
    assert group.dit_seconds.busy == pytest.approx(0.3)
    assert 0.2 <= group.dit_seconds.idle_between - before.idle_between < 0.3


def _draw(group: Group, request: RenderRequest) -> DrawnVideo:
    return group.draw(request, wanted_since=time.monotonic(), on_progress=ignore, should_cancel=never)


def _finish(drawn: DrawnVideo) -> int:
    return drawn.finish(on_progress=ignore, should_cancel=never).blocks


def _finish_until_failure(drawn: DrawnVideo, failures: list[GroupFailed]) -> None:
    try:
        _finish(drawn)
    except GroupFailed as failure:
        failures.append(failure)
