"""How loud a sound is, by EBU R128. Knows ffmpeg's meters."""

import re
from dataclasses import dataclass
from pathlib import Path

import ffmpeg

from worker.media.ffmpeg import ProcessLimits, own_input, run

_LIMITS = ProcessLimits(wall_s=900.0, cpu_s=900)
_INTEGRATED = re.compile(r"Integrated loudness:\s+I:\s+(-?[\d.]+|-?inf|nan) LUFS")
_RMS = re.compile(r"RMS level dB: (-?[\d.]+|-?inf|nan)")
_FLOOR_LUFS = -69.9  # the meter's own "nothing heard" is -70


@dataclass(frozen=True)
class Loudness:
    """`lufs` is None for less than 0.4 s of sound, or too quiet a one. `rms_dbfs`: of all samples; -inf for silence."""

    lufs: float | None
    rms_dbfs: float


def measure_loudness(sound: Path, *, duration_s: float) -> Loudness:
    """Of the first sound track of a file, up to `duration_s`; every sample of it is decoded.

    Raises FfmpegFailed for a track that cannot be decoded to its end.
    """
    track = (
        own_input(sound, vn=None, xerror=None)["a:0"]
        .filter("atrim", end=duration_s)
        .filter("aformat", channel_layouts="mono|stereo", sample_fmts="flt")
        .filter("ebur128", framelog="verbose")
        .filter("astats", measure_overall="RMS_level", measure_perchannel="none")
    )
    said = run(ffmpeg.output(track, "pipe:1", format="null"), limits=_LIMITS)
    lufs = _last_number(_INTEGRATED, said)
    rms = _last_number(_RMS, said)
    return Loudness(
        lufs=None if lufs is None or lufs < _FLOOR_LUFS else lufs, rms_dbfs=float("-inf") if rms is None else rms
    )


def _last_number(pattern: re.Pattern[str], text: str) -> float | None:
    found = pattern.findall(text)
    return None if not found or found[-1] in ("nan", "-nan", "inf") else float(found[-1])
