"""Whether a finished video is what was asked for. Knows the tolerances of the output contract, and figures only."""

from dataclasses import dataclass

from worker.media.errors import OutputErrorCode, OutputRejected
from worker.media.measure import BT709, LIMITED_RANGE, Measurement
from worker.media.timing import frames_for

START_TOLERANCE_S = 0.04
LOUDNESS_TOLERANCE_LU = 1.0
SILENCE_DBFS = -65.0
_SAMPLE_TOLERANCE_S = 0.002


@dataclass(frozen=True)
class Expected:
    duration_s: float
    fps: int
    width: int
    height: int


def check(measured: Measurement, expected: Expected) -> None:
    """Raises OutputRejected with the first thing that is wrong."""
    _check_form(measured, expected)
    _check_lengths(measured, expected)
    _check_sound(measured)


def _check_form(measured: Measurement, expected: Expected) -> None:
    form = (measured.video_codec, measured.video_profile, measured.pixel_format, measured.audio_codec)
    if form != ("h264", "High", "yuv420p", "aac"):
        raise OutputRejected(
            OutputErrorCode.STREAMS, f"The video is {', '.join(form)}, not H.264 High yuv420p with AAC."
        )
    if measured.colours != (BT709, BT709, BT709, LIMITED_RANGE):
        raise OutputRejected(OutputErrorCode.STREAMS, f"The video's colours are marked {measured.colours}, not BT.709.")
    if (measured.width, measured.height) != (expected.width, expected.height):
        raise OutputRejected(
            OutputErrorCode.STREAMS,
            f"The video has {measured.width} × {measured.height} pixels, not {expected.width} × {expected.height}.",
        )
    if not measured.index_first:
        raise OutputRejected(OutputErrorCode.NOT_STREAMABLE, "The video's index lies behind its data.")


def _check_lengths(measured: Measurement, expected: Expected) -> None:
    frame_s = 1 / expected.fps
    frames = frames_for(expected.duration_s, fps=expected.fps)
    if abs(measured.fps - expected.fps) > 0.01 or abs(measured.frames - frames) > 1:
        raise OutputRejected(
            OutputErrorCode.FRAMES,
            f"The video has {measured.frames} frames at {measured.fps:g} a second, not {frames} at {expected.fps}.",
        )
    if abs(measured.duration_s - measured.frames / measured.fps) > frame_s:
        raise OutputRejected(
            OutputErrorCode.DURATION, f"The picture lasts {measured.duration_s:.3f} s with {measured.frames} frames."
        )
    if abs(measured.audio_duration_s - expected.duration_s) > _SAMPLE_TOLERANCE_S:
        raise OutputRejected(
            OutputErrorCode.DURATION,
            f"The sound lasts {measured.audio_duration_s:.3f} s, not {expected.duration_s:.3f} s.",
        )
    if abs(measured.av_difference_ms) > frame_s * 1000 + _SAMPLE_TOLERANCE_S * 1000:
        raise OutputRejected(
            OutputErrorCode.DURATION,
            f"Picture and sound differ by {measured.av_difference_ms:.0f} ms, more than one frame.",
        )
    if abs(measured.video_start_s) > START_TOLERANCE_S or abs(measured.audio_start_s) > START_TOLERANCE_S:
        raise OutputRejected(
            OutputErrorCode.SYNC,
            f"The picture begins at {measured.video_start_s:.3f} s and the sound at {measured.audio_start_s:.3f} s.",
        )


def _check_sound(measured: Measurement) -> None:
    if measured.loudness.rms_dbfs < SILENCE_DBFS <= measured.source_loudness.rms_dbfs:
        raise OutputRejected(OutputErrorCode.SILENT, "The video is silent although its sound is not.")
    heard, source = measured.loudness.lufs, measured.source_loudness.lufs
    if heard is None or source is None:
        difference = measured.loudness.rms_dbfs - measured.source_loudness.rms_dbfs
        tolerance = 2 * LOUDNESS_TOLERANCE_LU  # too short for the meter: the level of all samples, which is coarser
    else:
        difference, tolerance = heard - source, LOUDNESS_TOLERANCE_LU
    if abs(difference) > tolerance:
        raise OutputRejected(
            OutputErrorCode.LOUDNESS, f"The video is {difference:+.1f} LU louder than the sound it was made of."
        )
