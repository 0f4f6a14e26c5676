"""`python -m tests.bench.avatar.sheet`: a picture of frames with the sound under them, of people and voices never met.

A row is one person: every other frame of a second and a half of speech, and below them the wave of just that time with
the opening of the mouth, as it is read back from the frames (red) and from the drawn truth (grey). With --speech also
ten seconds of that speech as a WAV, for `realvideo render`.
"""

import argparse
import sys
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tests.bench.avatar.clips import Clip, long_clip, short_clips
from tests.bench.avatar.sources import Drawn, Rendered, Source
from worker.pipeline.config import AUDIO_SAMPLE_RATE, AVATAR, VIDEO_FPS
from worker.training.drawing import portrait
from worker.training.reading import read_openings
from worker.weights.catalog import BUNDLED

COLUMNS = 12
EVERY = 2
"""Frames from one column to the next."""
CELL = 112
"""Pixels of a column."""
SPEECH_S = 10.0
SOUND = 56
"""Pixels under each row."""
PAPER, INK, WAVE, TRUE, READ = "white", "#404040", "#9db8d9", "#808080", "#c0302a"


def main(arguments: Sequence[str]) -> int:
    options = argparse.ArgumentParser(prog="python -m tests.bench.avatar.sheet", description=__doc__)
    options.add_argument("--out", type=Path, default=Path("docs/avatar-sheet.png"))
    options.add_argument("--clips", type=int, nargs="+", default=[0, 1, 6, 11], help="numbers of held-out clips")
    options.add_argument("--weights", type=Path, default=BUNDLED[AVATAR.name])
    options.add_argument("--drawn", action="store_true", help="show the truth instead")
    options.add_argument("--speech", type=Path, help="a WAV to write")
    asked = options.parse_args(arguments)
    if asked.speech is not None:
        _write_speech(asked.speech)
    source: Source = Drawn() if asked.drawn else Rendered(asked.weights)
    clips = list(short_clips(max(asked.clips) + 1))
    rows = [_row(clips[number], source) for number in asked.clips]
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    sheet.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(asked.out, optimize=True)
    print(f"{asked.out}: {len(rows)} people, {sheet.width} x {sheet.height} pixels")
    return 0


def _row(clip: Clip, source: Source) -> Image.Image:
    frames = source.frames(clip)
    still = portrait(clip.person, clip.frame)
    read, truth = read_openings(frames, still), read_openings(Drawn().frames(clip), still)
    first = _liveliest(truth, COLUMNS * EVERY)
    height = CELL * clip.frame.height // clip.frame.width
    row = Image.new("RGB", (COLUMNS * CELL, height + SOUND), PAPER)
    for column in range(COLUMNS):
        shown = Image.fromarray(frames[first + column * EVERY])
        row.paste(shown.resize((CELL, height), Image.Resampling.LANCZOS), (column * CELL, 0))
    part = slice(first, first + COLUMNS * EVERY)
    samples = AUDIO_SAMPLE_RATE // VIDEO_FPS
    sound = clip.acted.samples[part.start * samples : part.stop * samples]
    pen = ImageDraw.Draw(row)
    for x, heard in enumerate(np.array_split(sound, row.width)):
        middle, reach = height + SOUND / 2, SOUND / 2 * float(np.abs(heard).max())
        pen.line([(x, middle - reach), (x, middle + reach)], fill=WAVE)
    most = max(float(truth[part].max()), float(read[part].max()))
    for track, colour in ((truth, TRUE), (read, READ)):
        points = [
            ((place + 0.5) * CELL / EVERY, height + SOUND - 3 - (SOUND - 8) * float(opening) / most)
            for place, opening in enumerate(track[part])
        ]
        pen.line(points, fill=colour, width=2, joint="curve")
    pen.text((4, 4), clip.name.split()[-1], fill=INK)
    return row


def _write_speech(path: Path) -> None:
    samples = long_clip(0).first(SPEECH_S).acted.samples
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, AUDIO_SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def _liveliest(truth: np.ndarray, count: int) -> int:
    """The first of so many frames in which the mouth does most."""
    return int(np.lib.stride_tricks.sliding_window_view(truth, count).std(1).argmax())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
