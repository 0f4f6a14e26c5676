"""Everything that a render takes, prepared from a customer's two files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra import samples
from tests.media_files import decoded, make, sine, write_wav
from worker.media.errors import MediaError, MediaErrorCode
from worker.media.inputs import PictureFile, PreparedInputs, VideoFile, prepare
from worker.media.length import LengthPolicy
from worker.media.limits import MediaLimits
from worker.media.picture import ExactSize
from worker.media.speech import SPEECH_RATE, SpeechFile
from worker.media.video_frame import FrameChoice

PORTRAIT = PictureFile(samples.PORTRAIT)


def prepared(
    audio: Path,
    into: Path,
    *,
    portrait: PictureFile | VideoFile = PORTRAIT,
    duration_s: float | None = None,
    policy: LengthPolicy = LengthPolicy.REJECT,
) -> PreparedInputs:
    into.mkdir(exist_ok=True)
    return prepare(
        audio,
        portrait,
        size=ExactSize(width=96, height=128),
        duration_s=duration_s,
        length_policy=policy,
        limits=MediaLimits(),
        into=into,
    )


def samples_of(inputs: PreparedInputs) -> np.ndarray:
    with SpeechFile(inputs.speech) as speech:
        assert speech.samples == inputs.speech_samples
        return speech.read(10**7)


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    return write_wav(tmp_path / "tone.wav", sine(4.03, rate=44_100), rate=44_100)


def test_the_samples_of_the_demo_are_prepared(tmp_path: Path) -> None:
    inputs = prepared(samples.SPEECH, tmp_path / "out")
    assert inputs.duration_s >= 4
    assert inputs.frames / 16 == pytest.approx(inputs.duration_s, abs=1 / 16)
    assert inputs.reference is None
    with Image.open(inputs.picture) as picture:
        assert (picture.mode, picture.size) == ("RGB", (96, 128))


def test_without_a_wish_the_video_lasts_as_long_as_the_sound(tone: Path, tmp_path: Path) -> None:
    inputs = prepared(tone, tmp_path / "out")
    assert inputs.duration_s == inputs.source_duration_s == pytest.approx(4.03, abs=1e-6)
    assert (inputs.frames, inputs.speech_samples) == (65, 64_480)
    assert len(samples_of(inputs)) == 64_480


def test_padding_puts_silence_behind_the_speech(tone: Path, tmp_path: Path) -> None:
    inputs = prepared(tone, tmp_path / "out", duration_s=5.0, policy=LengthPolicy.PAD)
    speech = samples_of(inputs)
    assert (inputs.duration_s, inputs.frames, len(speech)) == (5.0, 80, 5 * SPEECH_RATE)
    assert np.abs(speech[: 4 * SPEECH_RATE]).max() > 0.2
    assert np.abs(speech[round(4.04 * SPEECH_RATE) :]).max() == 0


def test_trimming_cuts_the_speech_and_leaves_the_sound_to_the_muxer(tone: Path, tmp_path: Path) -> None:
    inputs = prepared(tone, tmp_path / "out", duration_s=2.0, policy=LengthPolicy.TRIM)
    assert (inputs.duration_s, inputs.frames, len(samples_of(inputs))) == (2.0, 32, 2 * SPEECH_RATE)
    assert inputs.source_duration_s == pytest.approx(4.03, abs=1e-6)


def test_a_length_that_does_not_fit_is_refused(tone: Path, tmp_path: Path) -> None:
    with pytest.raises(MediaError) as caught:
        prepared(tone, tmp_path / "out", duration_s=3.0)
    assert caught.value.code is MediaErrorCode.LENGTH_MISMATCH


def test_the_sound_is_kept_at_its_own_rate_for_the_video(tone: Path, tmp_path: Path) -> None:
    inputs = prepared(tone, tmp_path / "out")
    np.testing.assert_allclose(decoded(inputs.sound, rate=44_100)[:, 0], sine(4.03, rate=44_100), atol=1e-3)


def test_one_video_can_be_both_the_sound_and_the_portrait(tone: Path, tmp_path: Path) -> None:
    video = make(
        tmp_path / "film.mp4", "-loop", "1", "-r", "10", "-t", "4", "-i", str(PORTRAIT.path), "-i", str(tone),
        "-vf", "scale=320:320", "-pix_fmt", "yuv420p", "-preset", "ultrafast",
    )  # fmt: skip
    inputs = prepared(video, tmp_path / "out", portrait=VideoFile(video))
    assert inputs.reference is FrameChoice.FACE
    assert inputs.duration_s == pytest.approx(4.03, abs=0.03)
    asked = prepared(video, tmp_path / "out2", portrait=VideoFile(video, reference_time_s=1.5))
    assert (asked.reference, asked.reference_time_s) == (FrameChoice.ASKED, 1.5)


def test_a_picture_too_narrow_for_any_video_is_named_unusable(tone: Path, tmp_path: Path) -> None:
    from worker.media.picture import ReferenceSize

    Image.new("RGB", (8000, 10), "red").save(tmp_path / "strip.png")
    with pytest.raises(MediaError) as caught:
        prepare(
            tone,
            PictureFile(tmp_path / "strip.png"),
            size=ReferenceSize(),
            duration_s=None,
            length_policy=LengthPolicy.REJECT,
            limits=MediaLimits(),
            into=tmp_path,
        )
    assert caught.value.code is MediaErrorCode.PICTURE_UNUSABLE
