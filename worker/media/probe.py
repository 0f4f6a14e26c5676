"""What a customer's sound or video file says it holds. Knows file formats; decides nothing.

A hostile or broken file is opened in a process of its own, whose time and memory are limited: there it can neither hang
this process nor crash it.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROBE_TIMEOUT_S = 30.0
PYTHON_RAISED = 1
"""The status of a Python process that ended with an exception nobody caught."""


class Unreadable(Exception):
    """The file is not of one of the formats, or it is too broken to open."""


class ProbeBroken(Exception):
    """The probe itself failed: a fault of this installation, not of the file."""


@dataclass(frozen=True)
class SoundStream:
    """`duration_s` is the header's word; None when the format only guesses it or does not say."""

    codec: str
    sample_rate: int
    channels: int
    duration_s: float | None


@dataclass(frozen=True)
class VideoStream:
    codec: str
    width: int
    height: int


@dataclass(frozen=True)
class Probed:
    """`about_s`: how long the file lasts, which may be a guess."""

    format: str
    about_s: float | None
    sound: SoundStream | None
    video: VideoStream | None  # never the cover picture of a music file


def probe(path: Path, *, formats: Sequence[str], timeout_s: float = PROBE_TIMEOUT_S) -> Probed:
    """Raises Unreadable for the file's fault, and ProbeBroken for ours."""
    command = [sys.executable, "-m", "worker.media.probe_process", str(path.absolute()), ",".join(formats)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unreadable(f"could not be opened within {timeout_s:.0f} s") from error
    if done.returncode == PYTHON_RAISED:
        raise ProbeBroken(done.stderr.decode("utf-8", "replace").strip()[-1500:])
    if done.returncode != 0:
        raise Unreadable(done.stderr.decode("utf-8", "replace").strip()[-300:] or f"status {done.returncode}")
    said = json.loads(done.stdout)
    return Probed(
        format=said["format"],
        about_s=said["about_s"],
        sound=None if said["sound"] is None else SoundStream(**said["sound"]),
        video=None if said["video"] is None else VideoStream(**said["video"]),
    )
