"""A customer's files checked and turned into what a render takes: speech, sound and portrait.

Knows files. Knows no job: what is asked for comes as arguments.
"""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from worker.media.drawn import is_drawn
from worker.media.errors import MediaError, MediaErrorCode
from worker.media.length import LengthPolicy, resulting_length
from worker.media.limits import MediaLimits
from worker.media.picture import Portrait, SizePolicy, UnusablePicture
from worker.media.picture import prepare as prepare_picture
from worker.media.portrait import open_picture
from worker.media.sound import Sound, decode_sound
from worker.media.speech import SPEECH_RATE, set_length
from worker.media.timing import NATIVE_FPS, frames_for
from worker.media.video_frame import FrameChoice, reference_frame


@dataclass(frozen=True)
class PictureFile:
    path: Path


@dataclass(frozen=True)
class VideoFile:
    """`reference_time_s`: the frame to take; None takes the one with the best face."""

    path: Path
    reference_time_s: float | None = None


@dataclass(frozen=True)
class PreparedInputs:
    """Files of our own; the customer's are not opened again."""

    speech: Path
    """Mono 16 kHz float32, exactly as long as the video: read it by `worker.media.speech.SpeechFile`."""
    speech_samples: int
    sound: Path
    """The sound track as the customer sent it: WAV at its own rate, mono or stereo, at its own length."""
    picture: Path
    """PNG of `width` × `height` pixels."""
    width: int
    height: int
    picture_is_drawn: bool
    """Whether it is a portrait of the kind that `worker.media.drawn` knows."""
    duration_s: float
    """How long the video has to last."""
    frames: int
    """Frames to draw, at the network's 16 per second."""
    source_duration_s: float
    """How long the customer's sound lasts."""
    reference: FrameChoice | None
    """How the portrait was chosen from a video; None for a picture."""
    reference_time_s: float | None


def prepare(
    audio: Path,
    portrait: PictureFile | VideoFile,
    *,
    size: SizePolicy,
    duration_s: float | None,
    length_policy: LengthPolicy,
    limits: MediaLimits,
    into: Path,
) -> PreparedInputs:
    """Check the files and write the prepared ones into the directory `into`.

    Raises MediaError for files that cannot be used; FfmpegTimedOut and OSError are this machine's trouble.
    """
    picture, reference, reference_time_s = _portrait(portrait, limits=limits)
    written = _write_picture(picture, into / "portrait.png", size=size)
    sound = decode_sound(audio, sound=into / "sound.wav", speech=into / "speech.f32", limits=limits)
    length_s = resulting_length(sound.duration_s, asked_s=duration_s, policy=length_policy)
    return PreparedInputs(
        speech=sound.speech,
        speech_samples=_fit_speech(sound, length_s),
        sound=sound.sound,
        picture=into / "portrait.png",
        width=written.width,
        height=written.height,
        picture_is_drawn=is_drawn(written.pixels),
        duration_s=length_s,
        frames=frames_for(length_s, fps=NATIVE_FPS),
        source_duration_s=sound.duration_s,
        reference=reference,
        reference_time_s=reference_time_s,
    )


def _portrait(
    portrait: PictureFile | VideoFile, *, limits: MediaLimits
) -> tuple[Image.Image, FrameChoice | None, float | None]:
    if isinstance(portrait, PictureFile):
        return open_picture(portrait.path, limits=limits), None, None
    frame = reference_frame(portrait.path, time_s=portrait.reference_time_s, limits=limits)
    return frame.picture, frame.choice, frame.time_s


def _write_picture(picture: Image.Image, path: Path, *, size: SizePolicy) -> Portrait:
    try:
        portrait = prepare_picture(picture, size)
    except UnusablePicture as error:
        raise MediaError(MediaErrorCode.PICTURE_UNUSABLE, f"{error} Crop it first.") from error
    Image.fromarray(portrait.pixels).save(path, compress_level=1)
    return portrait


def _fit_speech(sound: Sound, length_s: float) -> int:
    """The speech gets the video's length to a sample, which the resampler alone does not promise."""
    samples = round(length_s * SPEECH_RATE)
    set_length(sound.speech, samples=samples)
    return samples
