"""A rank alone with the real network in its tiny size: a long video that is broken off and goes on from its pieces."""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integration.worker.nodes import write_tone
from tests.unit.group.test_renderer import LAUNCH
from tests.waiting import wait_for
from worker.group.errors import RenderCanceled
from worker.group.messages import Draw
from worker.group.renderer import PipelineRenderer, open_pipeline
from worker.group.request import RenderPhase, RenderProgress, RenderRequest, RenderResult
from worker.media.segments import SEGMENT_FRAMES, Segments, finished_segments, latents_name, segment_name
from worker.pipeline.config import preset
from worker.pipeline.reach import replayed_blocks

SECONDS = 23.2
FRAMES = 372
BLOCKS = 47
BLOCKS_PER_PIECE = SEGMENT_FRAMES // 8


@pytest.fixture(scope="module")
def renderer() -> PipelineRenderer:
    return open_pipeline(LAUNCH)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("inputs")
    write_tone(directory / "sound.wav", seconds=SECONDS)
    drawn = np.random.default_rng(3).standard_normal(round(SECONDS * 16_000))
    (drawn * 0.1).astype("<f4").tofile(directory / "speech.f32")
    pixels = np.random.default_rng(4).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(directory / "portrait.png")
    return directory


@pytest.fixture(scope="module")
def whole(renderer: PipelineRenderer, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    """The bytes of the video that never broke off, by its rate."""
    directory = tmp_path_factory.mktemp("whole")
    videos = {}
    for fps in (16, 25):
        request = replace(asked(inputs, directory), output_fps=fps)
        render(renderer, request)
        videos[fps] = request.video.read_bytes()
    return videos


def asked(inputs: Path, directory: Path) -> RenderRequest:
    return RenderRequest(
        name="test", speech=inputs / "speech.f32", picture=inputs / "portrait.png", sound=inputs / "sound.wav",
        video=directory / "video.mp4", prompt="a person speaks", seed=1, width=32, height=32, frames=FRAMES,
        output_fps=16, duration_s=SECONDS, denoising_steps=2,
    )  # fmt: skip


@pytest.mark.parametrize(("stop_at", "pieces", "fps"), [(21, 1, 16), (46, 2, 25)])
def test_whenever_it_is_broken_off_the_next_attempt_makes_the_same_bytes_from_the_pieces_that_are_there(
    renderer: PipelineRenderer,
    inputs: Path,
    whole: dict[int, bytes],
    tmp_path: Path,
    stop_at: int,
    pieces: int,
    fps: int,
) -> None:
    request = replace(asked(inputs, tmp_path), output_fps=fps)
    left = break_off(renderer, request, at=stop_at, pieces=pieces)
    taken = take_over(left, tmp_path / "second", pieces=pieces)
    seen: list[RenderProgress] = []
    result = render(renderer, replace(request, segments=taken), on_progress=seen.append)
    first_drawn = next(progress for progress in seen if progress.phase is RenderPhase.RENDERING)
    assert first_drawn.blocks_done == pieces * BLOCKS_PER_PIECE + 1
    assert first_drawn.blocks_total == BLOCKS
    replayed = len(replayed_blocks(preset("tiny").dit, first_drawn.blocks_done - 1))
    told = sum(progress.phase is RenderPhase.ENCODING for progress in seen)
    assert told >= 1 + replayed, "it is not silent while it replays"
    assert stop_at - pieces * BLOCKS_PER_PIECE <= BLOCKS_PER_PIECE, "what is drawn again is less than a piece"
    assert result.blocks == BLOCKS - pieces * BLOCKS_PER_PIECE
    assert request.video.read_bytes() == whole[fps]
    assert finished_segments(taken.directory) == 3


def test_a_video_goes_on_twice(
    renderer: PipelineRenderer, inputs: Path, whole: dict[int, bytes], tmp_path: Path
) -> None:
    request = asked(inputs, tmp_path)
    first = take_over(break_off(renderer, request, at=22, pieces=1), tmp_path / "second", pieces=1)
    left = break_off(renderer, replace(request, segments=first), at=44, pieces=2)
    taken = take_over(left, tmp_path / "third", pieces=2)
    render(renderer, replace(request, segments=taken))
    assert request.video.read_bytes() == whole[16]


@pytest.mark.parametrize("harm", ["cut off", "gone", "of another size"])
def test_latents_that_are_of_no_use_mean_drawing_from_the_start(
    renderer: PipelineRenderer, inputs: Path, whole: dict[int, bytes], tmp_path: Path, harm: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    request = asked(inputs, tmp_path)
    taken = take_over(break_off(renderer, request, at=22, pieces=1), tmp_path / "second", pieces=1)
    latents = taken.directory / latents_name(0)
    match harm:
        case "cut off":
            latents.write_bytes(latents.read_bytes()[:-100])
        case "gone":
            latents.unlink()
        case "of another size":
            Image.new("RGB", (48, 32), "grey").save(tmp_path / "wide.png")
            request = replace(request, picture=tmp_path / "wide.png", width=48)
    with caplog.at_level(logging.WARNING):
        result = render(renderer, replace(request, segments=taken))
    assert result.blocks == BLOCKS
    assert "from the start" in caplog.text
    if harm != "of another size":
        assert request.video.read_bytes() == whole[16]


def break_off(renderer: PipelineRenderer, request: RenderRequest, *, at: int, pieces: int) -> Path:
    """Stop before block `at`, when so many pieces are whole. Gives the directory of the pieces."""
    segments = request.segments or Segments(request.video.parent / "first")
    done = 0

    def note(progress: RenderProgress) -> None:
        nonlocal done
        done = progress.blocks_done

    def should_stop() -> bool:
        if done < at:
            return False
        wait_for(lambda: finished_segments(segments.directory) == pieces, timeout_s=20)
        return True

    with pytest.raises(RenderCanceled):
        render(renderer, replace(request, segments=segments), on_progress=note, should_stop=should_stop)
    assert not request.video.exists()
    return segments.directory


def take_over(left: Path, directory: Path, *, pieces: int) -> Segments:
    """What another attempt is given: the pieces, and the latents of the last of them."""
    directory.mkdir()
    for piece in range(pieces):
        shutil.copy(left / segment_name(piece), directory)
    shutil.copy(left / latents_name(pieces - 1), directory)
    return Segments(directory, made=pieces)


def render(
    renderer: PipelineRenderer,
    request: RenderRequest,
    *,
    on_progress: Callable[[RenderProgress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> RenderResult:
    finishing = renderer.draw(
        Draw(request, wanted_since=time.monotonic()),
        on_progress=on_progress,
        on_dit=lambda _: None,
        should_stop=should_stop,
    )
    assert finishing is not None
    return finishing.finish(on_progress=on_progress)
