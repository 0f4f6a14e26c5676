"""ffmpeg and what it can encode."""

import subprocess

from cli.checks.finding import Finding, State

NEEDED = ("libx264", "aac")
TIMEOUT_S = 20
MEND = "pip install imageio-ffmpeg brings one; or install ffmpeg and name it in IMAGEIO_FFMPEG_EXE"


def ffmpeg() -> list[Finding]:
    """The program, and the encoders that our videos need."""
    from worker.media.ffmpeg import program

    try:
        path = program()
        version = _first_line([path, "-version"])
        listed = _said([path, "-hide_banner", "-encoders"])
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        return [Finding("ffmpeg", State.MISSING, f"cannot be run: {error}", MEND)]
    encoders = {line.split()[1] for line in listed.splitlines() if len(line.split()) > 1}
    missing = [encoder for encoder in NEEDED if encoder not in encoders]
    if missing:
        said = f"{path} has no encoder {' and no '.join(missing)}"
        return [Finding("ffmpeg", State.OK, version), Finding("encoders", State.MISSING, said, MEND)]
    on_gpu = ", h264_nvenc" if "h264_nvenc" in encoders else ""
    return [
        Finding("ffmpeg", State.OK, version),
        Finding("encoders", State.OK, ", ".join(NEEDED) + on_gpu),
    ]


def _first_line(command: list[str]) -> str:
    """`ffmpeg version 7.1 Copyright …` without the copyright."""
    return _said(command).splitlines()[0].partition(" Copyright")[0].removeprefix("ffmpeg version ")


def _said(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout
