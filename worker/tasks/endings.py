"""What an error in an attempt means for its job: a code and words for people, and whether another try may help."""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass

from worker.fetching import InputError
from worker.group.errors import RenderInterrupted, RenderRefused
from worker.media.errors import FfmpegFailed, MediaError, OutputRejected
from worker.storage import StorageError

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    code: str
    message: str
    is_worth_another_try: bool


def ending_of(error: Exception) -> Ending:
    """An error that nobody foresaw is logged here, once, with its traceback."""
    match error:
        case InputError():
            return Ending(error.code, error.message, is_worth_another_try=error.retryable)
        case MediaError() | OutputRejected() | RenderRefused():
            return Ending(error.code, error.message, is_worth_another_try=False)
        case RenderInterrupted():
            return Ending(error.code, error.message, is_worth_another_try=True)
        case StorageError():
            return Ending("storage_error", f"The video could not be stored: {error}", is_worth_another_try=True)
        case FfmpegFailed():
            log.warning("ffmpeg: %s", error)
            return Ending("ffmpeg_failed", "A file could not be read or written in time.", is_worth_another_try=True)
        case OSError() if error.errno in DISK_ERRORS:
            return Ending("node_disk", f"The worker's disk failed: {error.strerror}.", is_worth_another_try=True)
    log.error("an attempt ended with an error that was not foreseen", exc_info=error)
    return Ending("internal_error", f"{type(error).__name__}: {error}", is_worth_another_try=True)
