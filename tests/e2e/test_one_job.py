"""One job through real processes: HTTP in, an MP4 and a signed webhook out. Nothing is faked but the customer."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from api.schemas import JobCreate, JobOut
from cli.client import RefusedError, Service
from infra.local.mp4_check import look_at, sound_duration_s
from infra.local.receiver import WebhookReceiver
from infra.samples import PORTRAIT, SPEECH
from models.job import JobStatus
from tests.e2e.up_process import STOP_S, UpProcess

pytestmark = pytest.mark.timeout(300)

RATE = 16_000
WIDTH, HEIGHT, FPS = 160, 208, 16


@pytest.fixture
def receiver(service: Service) -> Iterator[WebhookReceiver]:
    secret = ""
    with WebhookReceiver(secret=lambda: secret) as receiver:
        secret = service.create_webhook_endpoint(receiver.url).secret
        yield receiver


def test_one_job_from_upload_to_webhook(service: Service, receiver: WebhookReceiver, tmp_path: Path) -> None:
    job = submit(service)
    changes = list(service.follow(job.id))
    done = changes[-1]

    assert done.status is JobStatus.SUCCEEDED, done.error
    assert done.attempt == 1
    blocks = [change.progress.blocks_done for change in changes]
    assert blocks == sorted(blocks)
    assert len(set(blocks)) > 2, "progress was seen while it ran"
    assert done.progress.blocks_done == done.progress.blocks_total

    event = receiver.wait_for(job.id, timeout_s=30)
    assert receiver.refused == ()
    assert event.type == "job.succeeded"
    assert event.webhook_id.startswith("evt_")
    assert event.data["output"]["frames"] == done.output.frames if done.output else False

    video = tmp_path / "video.mp4"
    service.download(job.id, variant="video", to=video)
    check_against_the_speech(video, done)
    poster = tmp_path / "poster.jpg"
    service.download(job.id, variant="poster", to=poster)
    with av.open(str(poster)) as container:
        assert next(container.decode(video=0)).width == WIDTH


def test_a_warm_group_draws_the_same_video_again(service: Service, tmp_path: Path) -> None:
    pictures = []
    for number, job in enumerate([submit(service, seed=7), submit(service, seed=7)]):
        (*_, done) = service.follow(job.id)
        assert done.status is JobStatus.SUCCEEDED, done.error
        file = tmp_path / f"{number}.mp4"
        service.download(job.id, variant="video", to=file)
        pictures.append(all_frames(file))
    assert np.array_equal(*pictures)


def test_the_command_line_submits_follows_and_saves(up: UpProcess, tmp_path: Path) -> None:
    video = tmp_path / "from-the-command-line.mp4"
    sizes = ["--width", str(WIDTH), "--height", str(HEIGHT), "--denoising_steps", "2"]
    submitted = realvideo(up, "submit", "-a", str(SPEECH), "-i", str(PORTRAIT), "-o", str(video), *sizes)
    assert submitted.returncode == 0, submitted.stderr
    assert look_at(video).width == WIDTH
    listed = realvideo(up, "jobs", "--status", "succeeded", "--limit", "1", "--json")
    assert '"succeeded"' in listed.stdout
    refused = realvideo(up, "cancel", "job_01ARZ3NDEKTSV4RRFFQ69G5FAV")
    assert refused.returncode == 4
    assert "not_found" in refused.stderr


def test_a_sound_that_is_none_fails_with_its_reason_and_the_next_job_succeeds(service: Service, tmp_path: Path) -> None:
    no_sound = tmp_path / "speech.wav"
    no_sound.write_bytes(b"this is no sound" * 1000)
    bad = service.create_job(wanted(service, audio=no_sound))
    good = submit(service)
    (*_, failed) = service.follow(bad.id)
    (*_, done) = service.follow(good.id)
    assert failed.status is JobStatus.FAILED
    assert failed.error is not None
    assert failed.error.code == "audio_unreadable"
    assert done.status is JobStatus.SUCCEEDED, done.error


def test_a_cancel_stops_a_running_job(service: Service) -> None:
    job = submit(service)
    for change in service.follow(job.id):
        if change.status is JobStatus.RUNNING and change.progress.blocks_done >= 1:
            break
    service.cancel(job.id)
    (*_, ended) = service.follow(job.id)
    assert ended.status is JobStatus.CANCELED
    with pytest.raises(RefusedError) as refused:
        service.download(job.id, variant="video", to=Path("/nowhere.mp4"))
    assert refused.value.code == "job_without_output"


def test_secrets_are_for_their_owner_alone_and_the_terminal_tells_how_to_use_it(up: UpProcess) -> None:
    connection = up.wait_until_up()
    for name in ("connection.json", "secrets.json", "api-key"):
        assert stat.S_IMODE((up.state / name).stat().st_mode) == 0o600, name
    assert connection.api_key in up.terminal
    assert f"{connection.url}/docs" in up.terminal
    assert httpx.get(f"{connection.url}/docs", trust_env=False, timeout=10).status_code == 200


def test_a_second_up_in_the_same_checkout_is_refused(up: UpProcess) -> None:
    connection = up.wait_until_up()
    second = UpProcess(up.state, ranks=1, output="second.txt")
    assert second.process.wait(STOP_S) == 1
    assert connection.url in second.terminal
    assert "runs already" in second.terminal


def submit(service: Service, *, seed: int = 0) -> JobOut:
    return service.create_job(wanted(service, audio=SPEECH, seed=seed))


def wanted(service: Service, *, audio: Path, seed: int = 0) -> JobCreate:
    return JobCreate(
        audio=service.upload(audio),
        image=service.upload(PORTRAIT),
        width=WIDTH,
        height=HEIGHT,
        fps=FPS,
        seed=seed,
        denoising_steps=2,
    )


def check_against_the_speech(video: Path, job: JobOut) -> None:
    seen, speech_s = look_at(video), sound_duration_s(SPEECH)
    assert job.output is not None
    assert (seen.video_codec, seen.pixel_format, seen.audio_codec) == ("h264", "yuv420p", "aac")
    assert (seen.width, seen.height, seen.fps) == (WIDTH, HEIGHT, FPS)
    assert seen.frames == job.output.frames
    assert seen.frames == pytest.approx(speech_s * FPS, abs=1)
    assert seen.video_duration_s == pytest.approx(speech_s, abs=1 / FPS)
    assert job.output.duration == pytest.approx(speech_s, abs=1 / FPS)
    assert video.stat().st_size == job.output.bytes
    top = video.read_bytes()[:100_000]
    assert 0 < top.find(b"moov") < top.find(b"mdat"), "the index comes first, so that it plays while it loads"
    likeness, lag_s = likeness_of(sound_of(video), sound_of(SPEECH))
    assert likeness > 0.95
    assert abs(lag_s) < 0.5 / FPS


def sound_of(file: Path) -> NDArray[np.float32]:
    """The sound as mono at 16 kHz."""
    with av.open(str(file)) as container:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
        frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray().ravel() for frame in frames]).astype(np.float32)


def likeness_of(a: NDArray[np.float32], b: NDArray[np.float32]) -> tuple[float, float]:
    """The highest correlation of two sounds over all shifts, and the shift in seconds at which it is reached."""
    size = 1 << int(np.ceil(np.log2(len(a) + len(b))))
    product = np.fft.irfft(np.fft.rfft(a, size) * np.conj(np.fft.rfft(b, size)), size)
    best = int(np.argmax(product))
    lag = best if best < size // 2 else best - size
    return float(product[best] / np.sqrt((a @ a) * (b @ b))), lag / RATE


def all_frames(video: Path) -> NDArray[np.uint8]:
    with av.open(str(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def realvideo(up: UpProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    connection = up.wait_until_up()
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "REALVIDEO_URL": connection.url, "REALVIDEO_API_KEY": connection.api_key},
    )
