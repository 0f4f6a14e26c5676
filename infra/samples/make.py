"""Makes the samples: `python -m infra.samples.make`. Needs espeak-ng; knows which voice and which people they are.

`speech.wav` is the voice of espeak-ng's own formant synthesis, the portraits are drawn from seeds: none of them holds
anything of anybody else, and all are under the project's licence.
"""

import shutil
import subprocess
import sys
import wave
from pathlib import Path

from PIL import Image

from worker.training.drawing import portrait
from worker.training.faces import Frame, face

HERE = Path(__file__).resolve().parent
TEXT = "Good evening, and welcome to the show. Tonight we listen to a story from far away."
VOICE = ("-v", "en-us", "-s", "165", "-p", "45", "-a", "130")

PORTRAITS = {"square": (Frame(192, 192), (25, 18, 43)), "upright": (Frame(144, 192), (3, 34, 46))}
"""By shape: the size, and the seeds of the people. The training takes its own at random from two thousand million
seeds, so these are strangers to the network."""


def main() -> int:
    draw_portraits(HERE / "portraits")
    if shutil.which("espeak-ng") is None:
        print("espeak-ng is missing: apt-get install espeak-ng", file=sys.stderr)  # noqa: T201
        return 1
    seconds = make_speech(HERE / "speech.wav")
    print(f"{HERE}: portraits, and speech of {seconds:.2f} s")  # noqa: T201
    return 0


def draw_portraits(directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    for shape, (frame, seeds) in PORTRAITS.items():
        for number, seed in enumerate(seeds, 1):
            Image.fromarray(portrait(face(seed), frame)).save(directory / f"{shape}-{number}.png", optimize=True)


def make_speech(path: Path) -> float:
    subprocess.run(["espeak-ng", *VOICE, "-w", str(path), TEXT], check=True, timeout=60)
    with wave.open(str(path)) as speech:
        frames: int = speech.getnframes()
        rate: int = speech.getframerate()
    return frames / rate


if __name__ == "__main__":
    sys.exit(main())
