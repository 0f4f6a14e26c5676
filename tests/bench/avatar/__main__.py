"""`python -m tests.bench.avatar [--clips N]`: how well the avatar speaks, on speech and faces that it never met.

Exit 0 when everything is within the limits, 1 when something is not; the last line says which.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from tests.bench.avatar.clips import long_clip, short_clips, silent_clip
from tests.bench.avatar.mutants import MUTANTS
from tests.bench.avatar.sources import Drawn, Rendered
from tests.bench.avatar.verdict import Verdict, quiet, spoken, steady
from worker.pipeline.checkpoint import CheckpointError
from worker.weights.catalog import BUNDLED

WEIGHTS = BUNDLED["avatar"]


def main(arguments: Sequence[str]) -> int:
    options = argparse.ArgumentParser(prog="python -m tests.bench.avatar", description=__doc__)
    options.add_argument("--clips", type=int, default=20, help="short clips (default: 20, which is all)")
    options.add_argument("--minutes", type=int, default=2, help="videos of a minute, for identity (default: 2)")
    options.add_argument("--weights", type=Path, default=WEIGHTS)
    options.add_argument("--drawn", action="store_true", help="measure drawn videos, which are the truth itself")
    options.add_argument("--mutant", choices=MUTANTS, help="with this defect in the pipeline; exit 1 is wanted then")
    asked = options.parse_args(arguments)
    began, frames, verdicts = time.monotonic(), 0, []
    try:
        source = Drawn() if asked.drawn else Rendered(asked.weights)
    except CheckpointError as error:
        print(f"avatar: {error}")
        return 1
    with MUTANTS[asked.mutant]() if asked.mutant else nullcontext():
        for verdict, count in _verdicts(source, clips=asked.clips, minutes=asked.minutes):
            verdicts.append(verdict)
            frames += count
            print(verdict, flush=True)
    broken = [verdict for verdict in verdicts if verdict.broken]
    correlations = [v.figures["correlation"] for v in verdicts if "correlation" in v.figures]
    mean = sum(correlations) / max(1, len(correlations))
    print(
        f"avatar: {len(verdicts) - len(broken)} of {len(verdicts)} videos within the limits, mean correlation "
        f"{mean:.3f}, {frames / (time.monotonic() - began):.1f} frames/s"
        + (f"; broken: {', '.join(verdict.name for verdict in broken)}" if broken else "")
    )
    return 1 if broken else 0


def _verdicts(source: Rendered | Drawn, *, clips: int, minutes: int) -> Iterator[tuple[Verdict, int]]:
    for clip in short_clips(clips):
        yield spoken(clip, source.frames(clip)), len(clip.truth)
    silence = silent_clip()
    yield quiet(silence, source.frames(silence)), len(silence.truth)
    for number in range(minutes):
        minute = long_clip(number)
        yield steady(minute, source.frames(minute)), len(minute.truth)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
