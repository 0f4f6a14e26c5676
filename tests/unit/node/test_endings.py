"""What an error means for its job."""

import errno
import logging

import pytest

from worker.fetching import InputError, InputErrorCode, InputGone
from worker.group.errors import RenderInterrupted, RenderRefused
from worker.media.errors import (
    DiskFull,
    FfmpegFailed,
    MediaError,
    MediaErrorCode,
    OutputErrorCode,
    OutputRejected,
)
from worker.storage import StorageError
from worker.tasks.endings import ending_of


@pytest.mark.parametrize(
    ("error", "code", "is_worth_another_try"),
    [
        (InputGone("There is no such upload."), "input_missing", False),
        (InputError(InputErrorCode.UNREACHABLE, "no answer"), "input_unreachable", True),
        (MediaError(MediaErrorCode.AUDIO_SILENT, "The sound is silent."), "audio_silent", False),
        (OutputRejected(OutputErrorCode.SYNC, "out of sync"), "output_out_of_sync", False),
        (RenderRefused("invalid_render", "too small"), "invalid_render", False),
        (RenderInterrupted("node_disk", "no room"), "node_disk", True),
        (StorageError("not reachable"), "storage_error", True),
        (FfmpegFailed("ffmpeg ended with status 1", stderr="secret path"), "ffmpeg_failed", True),
        (DiskFull("no room"), "node_disk", True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "node_disk", True),
        (FileNotFoundError(errno.ENOENT, "not there"), "internal_error", True),
        (ZeroDivisionError("division by zero"), "internal_error", True),
    ],
)
def test_every_error_has_a_code_and_a_way_to_go_on(error: Exception, code: str, is_worth_another_try: bool) -> None:
    ending = ending_of(error)
    assert (ending.code, ending.is_worth_another_try) == (code, is_worth_another_try)
    assert ending.message
    assert "secret" not in ending.message


def test_only_what_nobody_foresaw_leaves_a_trace(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        ending_of(StorageError("not reachable"))
        assert caplog.records == []
        ending_of(ZeroDivisionError("division by zero"))
        assert [record.levelname for record in caplog.records] == ["ERROR"]
