"""The process that opens a customer's file for `probe`: `python -m worker.media.probe_process PATH FORMATS`.

Prints one JSON object, or one line on stderr with the status `UNREADABLE`. Any other status is this code's own fault,
or that of a signal or limit that a hostile file ran into.
"""

import json
import resource
import sys
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer

UNREADABLE = 3
CPU_S = 20
MEMORY_BYTES = 2 * 1024**3
# these headers hold the length itself; the others let ffmpeg guess it from the bit rate
_EXACT_DURATION = frozenset({"wav", "flac", "mov"})

# titles in no known encoding are no reason to refuse a file; PyAV 19 needs no telling
_ANY_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def main(path: str, formats: str) -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    options = {"protocol_whitelist": "file", "format_whitelist": formats}
    try:
        with av.open(f"file:{path}", mode="r", options=options, **_ANY_METADATA) as container:
            print(json.dumps(_describe(container)))  # noqa: T201 - the answer of this process
    except (av.FFmpegError, ValueError, MemoryError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return UNREADABLE
    return 0


def _describe(container: InputContainer) -> dict[str, object]:
    name = container.format.name.split(",")[0]
    sounds = container.streams.audio
    videos = [
        stream for stream in container.streams.video if not stream.disposition & av.stream.Disposition.attached_pic
    ]
    return {
        "format": name,
        "about_s": None if container.duration is None else container.duration / av.time_base,
        "sound": None
        if not sounds
        else {
            "codec": sounds[0].codec_context.name,
            "sample_rate": sounds[0].codec_context.sample_rate,
            "channels": sounds[0].codec_context.channels,
            "duration_s": _seconds(sounds[0]) if name in _EXACT_DURATION else None,
        },
        "video": None
        if not videos
        else {
            "codec": videos[0].codec_context.name,
            "width": videos[0].codec_context.width,
            "height": videos[0].codec_context.height,
        },
    }


def _seconds(stream: AudioStream) -> float | None:
    if stream.duration is None or stream.time_base is None:
        return None
    return float(stream.duration * stream.time_base)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
