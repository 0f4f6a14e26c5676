"""A customer's sound, decoded once into two files of our own: the sound as it is, and the speech for the networks.

Knows sound. Nothing after this step opens the customer's file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import av
import ffmpeg
import numpy as np
from numpy.typing import NDArray

from worker.media.errors import FfmpegFailed, FfmpegTimedOut, MediaError, MediaErrorCode
from worker.media.ffmpeg import SOUND_FORMATS, FfmpegProcess, output_path, untrusted_input
from worker.media.limits import MediaLimits
from worker.media.probe import Probed, Unreadable, probe
from worker.media.speech import SAMPLE_BYTES, SPEECH_RATE

# the quietest sound that is taken: its loudest tenth of a second, as RMS of full scale (-60 dBFS)
SILENCE_RMS = 1e-3
_WINDOW = SPEECH_RATE // 10
_SLACK_S = 0.5  # what a decoder may lose at the end of a file without it counting as cut off
_WANTED = "Send WAV, MP3, FLAC, M4A/AAC, OGG/Opus, or a video with a sound track."


@dataclass(frozen=True)
class Sound:
    """`sound`: WAV, float32, at the source's own rate, mono or stereo; `speech`: see `worker.media.speech`."""

    sound: Path
    speech: Path
    duration_s: float
    sample_rate: int
    channels: int


def decode_sound(source: Path, *, sound: Path, speech: Path, limits: MediaLimits) -> Sound:
    """Decode the first sound track of `source` into two new files.

    Raises MediaError; FfmpegTimedOut and DiskFull are this machine's trouble.
    """
    probed = _probed(source)
    assert probed.sound is not None
    heard = _decode(source, sound=sound, speech=speech, limits=limits)
    _check(heard, probed, limits)
    duration_s, sample_rate, channels = _measure_own(sound)
    return Sound(sound=sound, speech=speech, duration_s=duration_s, sample_rate=sample_rate, channels=channels)


@dataclass(frozen=True)
class _Heard:
    """What was noticed while the samples passed."""

    samples: int
    loudest_rms: float
    all_finite: bool

    @property
    def duration_s(self) -> float:
        return self.samples / SPEECH_RATE


def _probed(source: Path) -> Probed:
    if source.stat().st_size == 0:
        raise MediaError(MediaErrorCode.AUDIO_EMPTY, f"The sound file is empty (0 bytes). {_WANTED}")
    try:
        probed = probe(source, formats=SOUND_FORMATS)
    except Unreadable as error:
        raise MediaError(
            MediaErrorCode.AUDIO_UNREADABLE, f"The sound file is not a sound that can be read. {_WANTED}"
        ) from error
    if probed.sound is None:
        what = "video has no sound track" if probed.video is not None else "sound file holds no sound"
        raise MediaError(MediaErrorCode.AUDIO_MISSING, f"The {what}. {_WANTED}")
    return probed


def _decode(source: Path, *, sound: Path, speech: Path, limits: MediaLimits) -> _Heard:
    try:
        with FfmpegProcess(_decoding(source, sound, limits), limits=limits.decode) as process:
            heard = _listen(process.stdout, speech)
            process.finish()
            return heard
    except FfmpegTimedOut:
        raise
    except FfmpegFailed as error:
        raise MediaError(
            MediaErrorCode.AUDIO_UNREADABLE, f"The sound could not be decoded; the file may be damaged. {_WANTED}"
        ) from error


def _decoding(source: Path, sound: Path, limits: MediaLimits) -> Any:
    # first_pts: a track that begins later than its video keeps the pause before it; async fills gaps between packets
    whole = (
        untrusted_input(source, formats=SOUND_FORMATS, t=limits.max_duration_s + 1.0, vn=None)["a:0"]
        .filter("aresample", **{"async": 1, "first_pts": 0})
        .filter_multi_output("asplit", 2)
    )
    stereo = whole.stream(0).filter("aformat", channel_layouts="mono|stereo", sample_fmts="flt")
    # the resampler comes first: ffmpeg would make the other branch mono as well to have one layout on both sides
    mono = whole.stream(1).filter("aresample", SPEECH_RATE).filter("aformat", channel_layouts="mono")
    return ffmpeg.merge_outputs(
        ffmpeg.output(stereo, output_path(sound), format="wav", acodec="pcm_f32le", map_metadata=-1),
        ffmpeg.output(mono, "pipe:1", format="f32le", acodec="pcm_f32le"),
    )


def _listen(stream: IO[bytes], speech: Path) -> _Heard:
    """Write the speech file while looking at its samples, a second at a time."""
    samples, loudest, all_finite = 0, 0.0, True
    with speech.open("xb") as file:
        while data := stream.read(SPEECH_RATE * SAMPLE_BYTES):
            file.write(data)
            heard = np.frombuffer(data[: len(data) // SAMPLE_BYTES * SAMPLE_BYTES], dtype="<f4")
            samples += len(heard)
            all_finite = all_finite and bool(np.isfinite(heard).all())
            if all_finite:
                loudest = max(loudest, _loudest_rms(heard))
    return _Heard(samples=samples, loudest_rms=loudest, all_finite=all_finite)


def _loudest_rms(heard: NDArray[np.float32]) -> float:
    """Of the windows of a tenth of a second; a constant offset is not sound."""
    windows = [heard[start : start + _WINDOW] for start in range(0, len(heard), _WINDOW)]
    return max(float(window.std(dtype=np.float64)) for window in windows)


def _check(heard: _Heard, probed: Probed, limits: MediaLimits) -> None:
    if heard.samples == 0:
        raise MediaError(MediaErrorCode.AUDIO_EMPTY, f"The sound file holds no samples. {_WANTED}")
    if not heard.all_finite:
        raise MediaError(
            MediaErrorCode.AUDIO_INVALID,
            "The sound holds samples that are not numbers. Export it again, as 16-bit WAV.",
        )
    if heard.duration_s > limits.max_duration_s:
        raise MediaError(
            MediaErrorCode.AUDIO_TOO_LONG,
            f"The sound is longer than the {limits.max_duration_s:g} s that are allowed. Cut it into several jobs.",
        )
    if probed.sound is not None and probed.sound.duration_s is not None:
        promised = min(probed.sound.duration_s, limits.max_duration_s)
        if heard.duration_s < promised - max(_SLACK_S, promised * 0.02):
            raise MediaError(
                MediaErrorCode.AUDIO_TRUNCATED,
                f"The sound says it lasts {promised:.2f} s, but only {heard.duration_s:.2f} s can be read."
                " The file was probably cut off on its way: send it again.",
            )
    if heard.duration_s < limits.min_duration_s:
        raise MediaError(
            MediaErrorCode.AUDIO_TOO_SHORT,
            f"The sound lasts {heard.duration_s * 1000:.0f} ms; at least"
            f" {limits.min_duration_s * 1000:.0f} ms are needed. Send a longer one.",
        )
    if heard.loudest_rms < SILENCE_RMS:
        raise MediaError(
            MediaErrorCode.AUDIO_SILENT,
            "The sound is silent from beginning to end. Check that the right track was sent.",
        )


def _measure_own(sound: Path) -> tuple[float, int, int]:
    """Duration in seconds, exact to a sample, sample rate and channels of the WAV that was just written."""
    with av.open(output_path(sound)) as container:
        stream = container.streams.audio[0]
        assert stream.duration is not None
        assert stream.time_base is not None
        return (
            float(stream.duration * stream.time_base),
            stream.codec_context.sample_rate,
            stream.codec_context.channels,
        )
