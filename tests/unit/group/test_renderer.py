"""A rank alone with the real network in its tiny size, in this process: what it refuses, and that it stays fit."""

import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
from PIL import Image

from tests.integration.worker.nodes import write_tone
from tests.waiting import wait_for
from worker.group.errors import GroupRefused, RenderCanceled, RenderInterrupted, RenderRefused
from worker.group.finishing import FileFinishing
from worker.group.messages import Draw, Launch
from worker.group.renderer import PipelineRenderer, open_pipeline
from worker.group.request import OnProgress, RenderPhase, RenderProgress, RenderRequest, RenderResult, ShouldCancel
from worker.media.errors import DiskFull, FfmpegFailed
from worker.media.ffmpeg import FfmpegProcess
from worker.pipeline.audio_mode import AudioMode
from worker.pipeline.denoiser import Denoiser
from worker.pipeline.dit_clock import DiTSeconds
from worker.pipeline.encoders import Encoders
from worker.pipeline.sink_rotation import SinkRotation

LAUNCH = Launch(
    rank=0, world_size=1, rendezvous=Path("/nonexistent"), preset="tiny", weights=None, device="cpu", threads=1,
    collective_timeout_s=30.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def renderer() -> PipelineRenderer:
    return open_pipeline(LAUNCH)


@pytest.fixture
def request_(tmp_path: Path) -> RenderRequest:
    write_tone(tmp_path / "sound.wav", seconds=1.0)
    np.zeros(16_000, "<f4").tofile(tmp_path / "speech.f32")
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "portrait.png")
    return RenderRequest(
        name="test", speech=tmp_path / "speech.f32", picture=tmp_path / "portrait.png", sound=tmp_path / "sound.wav",
        video=tmp_path / "video.mp4", prompt="a person speaks", seed=1, width=64, height=64, frames=16, output_fps=16,
        duration_s=1.0, denoising_steps=2,
    )  # fmt: skip


def test_a_video_is_written_and_its_progress_told(renderer: PipelineRenderer, request_: RenderRequest) -> None:
    seen: list[RenderProgress] = []
    result = _render(renderer, request_, on_progress=seen.append)
    assert (result.frames, result.blocks) == (16, 3)
    assert result.encoding_s > 0
    assert result.ms_per_block > 0
    assert result.gpu_seconds == pytest.approx(result.encoding_s + result.rendering_s)
    assert [p.blocks_done for p in seen if p.phase is RenderPhase.RENDERING] == [1, 2, 3]
    assert [seen[0].phase, seen[-1].phase] == [RenderPhase.ENCODING, RenderPhase.MUXING]
    with av.open(str(request_.video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 16


def test_the_same_request_gives_the_same_bytes(renderer: PipelineRenderer, request_: RenderRequest) -> None:
    videos = []
    for _ in range(2):
        _render(renderer, request_)
        videos.append(request_.video.read_bytes())
    assert videos[0] == videos[1]


def test_a_sound_of_more_than_five_seconds_is_encoded_in_the_way_asked_for(
    renderer: PipelineRenderer, request_: RenderRequest
) -> None:
    drawn = np.random.default_rng(3).standard_normal(7 * 16_000)
    (drawn * np.linspace(0.01, 0.5, len(drawn))).astype("<f4").tofile(request_.speech)
    asked = replace(request_, frames=112, duration_s=7.0)
    videos = {}
    for mode in AudioMode:
        assert _render(renderer, replace(asked, audio_mode=mode)).frames == 112
        videos[mode] = asked.video.read_bytes()
    assert videos[AudioMode.WINDOWED] != videos[AudioMode.REFERENCE]


def test_the_sink_is_turned_in_the_way_asked_for(
    renderer: PipelineRenderer, request_: RenderRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    start = Denoiser.start

    def start_and_look(self: Denoiser, *arguments: Any, **more: Any) -> None:
        start(self, *arguments, **more)
        seen.append(self.cache._rotation)

    monkeypatch.setattr(Denoiser, "start", start_and_look)
    for rotation in SinkRotation:
        _render(renderer, replace(request_, sink_rotation=rotation))
    assert seen == list(SinkRotation)


@pytest.mark.parametrize(
    "change", [{"width": 65}, {"frames": 0}, {"denoising_steps": 3}, {"height": 128}], ids=lambda change: str(*change)
)
def test_what_cannot_be_rendered_is_refused_and_the_rank_stays_fit(
    renderer: PipelineRenderer, request_: RenderRequest, change: dict[str, int]
) -> None:
    with pytest.raises(RenderRefused) as refused:
        _render(renderer, replace(request_, **change))
    assert refused.value.code == "invalid_render"
    assert _render(renderer, request_).frames == 16


def test_a_stop_leaves_no_file_and_a_rank_that_is_fit(renderer: PipelineRenderer, request_: RenderRequest) -> None:
    seen: list[RenderProgress] = []
    with pytest.raises(RenderCanceled):
        _render(renderer, request_, on_progress=seen.append, should_stop=lambda: len(seen) > 1)
    assert sorted(path.name for path in request_.video.parent.iterdir()) == ["portrait.png", "sound.wav", "speech.f32"]
    assert _render(renderer, request_).frames == 16


def test_a_full_disk_interrupts_and_the_rank_stays_fit(
    renderer: PipelineRenderer, request_: RenderRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(self: object, frames: object) -> None:
        raise DiskFull("There is no room on the disk.")

    with monkeypatch.context() as patch:
        patch.setattr("worker.media.mp4.Mp4Writer.write", no_room)
        with pytest.raises(RenderInterrupted) as interrupted:
            _render(renderer, request_)
    assert interrupted.value.code == "node_disk"
    assert _render(renderer, request_).frames == 16


def test_a_sound_of_what_is_no_number_is_refused(renderer: PipelineRenderer, request_: RenderRequest) -> None:
    np.full(16_000, np.nan, "<f4").tofile(request_.speech)
    with pytest.raises(RenderRefused, match="not finite"):
        _render(renderer, request_)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"preset": "none"}, "unknown_preset"),
        ({"preset": "14b"}, "weights_missing"),
        ({"weights": Path("/nonexistent")}, "weights_unusable"),
        ({"world_size": 4}, "impossible_layout"),
    ],
)
def test_a_rank_that_can_never_start_says_why(change: dict[str, object], code: str) -> None:
    with pytest.raises(GroupRefused) as refused:
        open_pipeline(replace(LAUNCH, **change))  # type: ignore[arg-type]
    assert refused.value.code == code


def test_a_bundle_that_is_not_there_is_named_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.group.renderer.BUNDLED", {"avatar": tmp_path / "avatar.safetensors"})
    with pytest.raises(GroupRefused, match=str(tmp_path / "avatar.safetensors")) as refused:
        open_pipeline(replace(LAUNCH, preset="avatar"))
    assert refused.value.code == "weights_unusable"


def test_the_avatar_draws_the_sizes_that_it_knows_from_its_own_weights_and_refuses_others(
    request_: RenderRequest,
) -> None:
    avatar = open_pipeline(replace(LAUNCH, preset="avatar", weights=Path("/nonexistent")))
    with pytest.raises(RenderRefused, match="192 x 192 or 144 x 192 pixels, not 64 x 64") as refused:
        _render(avatar, request_)
    assert refused.value.code == "invalid_render"
    Image.new("RGB", (144, 192), "grey").save(request_.picture)
    _render(avatar, replace(request_, width=144, height=192))
    with av.open(str(request_.video)) as video:
        assert (video.streams.video[0].width, video.streams.video[0].height) == (144, 192)


def test_what_ffmpeg_says_of_this_machine_is_not_told_to_customers(
    renderer: PipelineRenderer, request_: RenderRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FfmpegFailed("ffmpeg ended with status 1", stderr="/secret/path: broken pipe")

    monkeypatch.setattr("worker.media.mp4.Mp4Writer.write", fail)
    with pytest.raises(RenderInterrupted) as caught:
        _render(renderer, request_)
    assert caught.value.code == "ffmpeg_failed"
    assert "secret" not in caught.value.message


def test_videos_beside_each_other_are_the_same_as_one_by_one(
    renderer: PipelineRenderer, request_: RenderRequest
) -> None:
    first = _placed(request_, "first", seed=1)
    second = _placed(request_, "second", seed=2)
    alone = {}
    for request in (first, second):
        _render(renderer, request)
        alone[request.name] = request.video.read_bytes()
        request.video.unlink()

    def prepare_the_second(progress: RenderProgress) -> None:
        if progress.phase is RenderPhase.RENDERING and progress.blocks_done == 1:
            renderer.prepare(second)

    drawn = _draw(renderer, first, on_progress=prepare_the_second)
    finishing = threading.Thread(target=drawn.finish, kwargs={"on_progress": ignore})
    finishing.start()
    seen: list[RenderProgress] = []
    _draw(renderer, second, on_progress=seen.append).finish(on_progress=ignore)
    finishing.join(timeout=20)
    assert {request.name: request.video.read_bytes() for request in (first, second)} == alone
    assert alone["first"] != alone["second"]


def test_what_was_prepared_ahead_is_not_prepared_again(
    renderer: PipelineRenderer, request_: RenderRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    encode = Encoders.encode

    def encode_and_look(self: Encoders, *arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return encode(self, *arguments)

    monkeypatch.setattr(Encoders, "encode", encode_and_look)
    renderer.prepare(request_)
    wait_for(lambda: threads == ["prepare test"], timeout_s=20)
    assert _render(renderer, request_).frames == 16
    assert threads == ["prepare test"]


def test_what_was_prepared_and_is_forgotten_leaves_no_process_and_no_file(
    renderer: PipelineRenderer, request_: RenderRequest
) -> None:
    before = sorted(request_.video.parent.iterdir())
    renderer.prepare(request_)
    wait_for(lambda: len(_encoders()) == 1, timeout_s=20)
    renderer.forget(request_.name)
    wait_for(lambda: _encoders() == [], timeout_s=20)
    # whoever closes its files may not be done, and the next render writes to the same place
    at_work = {f"{what} {request_.name}" for what in ("prepare", "drop")}
    wait_for(lambda: not at_work & {thread.name for thread in threading.enumerate()}, timeout_s=20)
    assert sorted(request_.video.parent.iterdir()) == before
    assert _render(renderer, request_).frames == 16


def test_files_that_cannot_be_opened_ahead_are_told_of_when_their_turn_comes(
    renderer: PipelineRenderer, request_: RenderRequest
) -> None:
    np.full(16_000, np.nan, "<f4").tofile(request_.speech)
    renderer.prepare(request_)
    with pytest.raises(RenderRefused, match="not finite"):
        _render(renderer, request_)
    assert _encoders() == []


def test_a_file_that_is_left_while_it_is_finished_is_removed(
    renderer: PipelineRenderer, request_: RenderRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = _draw(renderer, request_)
    begun = threading.Event()
    finish = FfmpegProcess.finish

    def abort_and_finish(self: FfmpegProcess, *, timeout_s: float | None = None) -> None:
        begun.set()
        threading.Event().wait(0.3)  # while the main thread leaves it
        finish(self, timeout_s=timeout_s)

    monkeypatch.setattr(FfmpegProcess, "finish", abort_and_finish)
    outcomes: list[object] = []
    thread = threading.Thread(target=lambda: outcomes.append(_outcome_of(drawn)))
    thread.start()
    assert begun.wait(timeout=10)
    drawn.abort()
    thread.join(timeout=20)
    assert outcomes == [RenderCanceled]
    assert sorted(path.name for path in request_.video.parent.iterdir()) == ["portrait.png", "sound.wav", "speech.f32"]


def test_the_time_of_the_dit_is_told_from_the_first_work_on(
    renderer: PipelineRenderer, request_: RenderRequest
) -> None:
    told: list[DiTSeconds] = []
    wanted_since = time.monotonic() - 100.0
    for _ in range(2):
        draw = Draw(request_, wanted_since=wanted_since)
        finishing = renderer.draw(draw, on_progress=ignore, on_dit=told.append, should_stop=lambda: False)
        assert finishing is not None
        time.sleep(0.2)
        finishing.finish(on_progress=ignore)
    first, last = told[0], told[-1]
    assert first.busy > 0
    assert last.busy > first.busy
    assert last.shared > first.shared
    assert last.idle_between - first.idle_between >= 0.2
    assert last.idle_within - first.idle_within < 0.2


def _encoders() -> list[psutil.Process]:
    """The ffmpeg processes of this one."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            if "ffmpeg" in child.name():
                found.append(child)
    return found


def _placed(request: RenderRequest, name: str, *, seed: int) -> RenderRequest:
    directory = request.video.parent / name
    directory.mkdir()
    return replace(request, name=name, video=directory / "video.mp4", seed=seed)


def _outcome_of(drawn: FileFinishing) -> object:
    try:
        return drawn.finish(on_progress=ignore)
    except RenderCanceled as error:
        return type(error)


def ignore(_: object) -> None:
    pass


def _render(
    renderer: PipelineRenderer,
    request: RenderRequest,
    *,
    on_progress: OnProgress = ignore,
    should_stop: ShouldCancel = lambda: False,
) -> RenderResult:
    return _draw(renderer, request, on_progress=on_progress, should_stop=should_stop).finish(on_progress=on_progress)


def _draw(
    renderer: PipelineRenderer,
    request: RenderRequest,
    *,
    on_progress: OnProgress = ignore,
    should_stop: ShouldCancel = lambda: False,
) -> FileFinishing:
    draw = Draw(request, wanted_since=time.monotonic())
    finishing = renderer.draw(draw, on_progress=on_progress, on_dit=ignore, should_stop=should_stop)
    assert finishing is not None
    return finishing
