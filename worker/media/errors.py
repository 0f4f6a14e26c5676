"""What can be wrong with a customer's file, with ffmpeg, and with a finished video.

`MediaError` is the customer's to mend: its message is a sentence that says what to do. `FfmpegFailed` is ours.
"""

import errno
from enum import StrEnum


class MediaErrorCode(StrEnum):
    AUDIO_EMPTY = "audio_empty"  # no bytes, or no samples
    AUDIO_UNREADABLE = "audio_unreadable"  # not a sound file, or not one of the formats taken
    AUDIO_MISSING = "audio_missing"  # a video without a sound track
    AUDIO_TRUNCATED = "audio_truncated"  # ends before its own header says
    AUDIO_INVALID = "audio_invalid"  # samples that are no numbers
    AUDIO_TOO_SHORT = "audio_too_short"
    AUDIO_TOO_LONG = "audio_too_long"
    AUDIO_SILENT = "audio_silent"
    LENGTH_MISMATCH = "length_mismatch"  # not as long as asked, and the policy does not allow to change it
    PICTURE_EMPTY = "picture_empty"
    PICTURE_UNREADABLE = "picture_unreadable"  # not a picture, not one of the formats taken, or damaged
    PICTURE_TOO_LARGE = "picture_too_large"
    PICTURE_UNUSABLE = "picture_unusable"  # of a shape that no video can have
    VIDEO_EMPTY = "video_empty"
    VIDEO_UNREADABLE = "video_unreadable"
    VIDEO_TOO_LARGE = "video_too_large"  # too many pixels in a frame
    REFERENCE_TIME_OUTSIDE = "reference_time_outside"  # the video has no frame at that time


class MediaError(Exception):
    """A file cannot be used. Trying again cannot help; another file can."""

    def __init__(self, code: MediaErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class FfmpegFailed(Exception):
    """An ffmpeg process ended badly; `stderr` is the end of what it said, for the log and not for customers."""

    def __init__(self, message: str, *, stderr: str = "") -> None:
        super().__init__(f"{message}: {stderr.strip()[-1500:]}" if stderr.strip() else message)
        self.stderr = stderr


class FfmpegTimedOut(FfmpegFailed):
    """An ffmpeg process used more time than it was given."""


class FramesMissing(Exception):
    """A video was finished before all of its frames were written."""


class DiskFull(OSError):
    """The disk of this machine has no room for the file."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ENOSPC, message)


class OutputErrorCode(StrEnum):
    STREAMS = "output_streams"  # not one H.264 stream and one AAC stream of the right form
    FRAMES = "output_frames"
    DURATION = "output_duration"
    SYNC = "output_out_of_sync"
    LOUDNESS = "output_loudness"
    SILENT = "output_silent"
    NOT_STREAMABLE = "output_not_streamable"  # its index lies behind its data


class OutputRejected(Exception):
    """A finished video is not what was asked for and must not be shipped."""

    def __init__(self, code: OutputErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
