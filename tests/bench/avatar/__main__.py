"""`python -m tests.bench.avatar [--clips N]`: how well the avatar speaks, on speech and faces that it never met.

Exit 0 when everything is within the limits, 1 when something is not; the last line says which.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import mean

from tests.bench.avatar.clips import long_clip, short_clips, silent_clip
from tests.bench.avatar.mutants import MUTANTS
from tests.bench.avatar.plain import Plain
from tests.bench.avatar.sources import Drawn, Rendered, Source, Timed
from tests.bench.avatar.verdict import Verdict, quiet, same, spoken, steady
from worker.pipeline.checkpoint import CheckpointError
from worker.weights.catalog import BUNDLED

WEIGHTS = BUNDLED["avatar"]
PLAIN_CLIPS = 2
"""Short clips, one of each size, that are made once more without the pipeline's caches."""


def main(arguments: Sequence[str]) -> int:
    options = argparse.ArgumentParser(prog="python -m tests.bench.avatar", description=__doc__)
    options.add_argument("--clips", type=int, default=20, help="short clips (default: 20, which is all)")
    options.add_argument("--minutes", type=int, default=2, help="videos of a minute, for identity (default: 2)")
    options.add_argument("--weights", type=Path, default=WEIGHTS)
    options.add_argument("--device", default="cpu", help="elsewhere all but the comparison with the plain way")
    options.add_argument("--drawn", action="store_true", help="measure drawn videos, which are the truth itself")
    options.add_argument("--mutant", choices=MUTANTS, help="with this defect in the pipeline; exit 1 is wanted then")
    asked = options.parse_args(arguments)
    if asked.mutant and (asked.drawn or asked.device != "cpu" or not asked.clips):
        options.error("a defect is noticed where clips are made on the processor, and compared with the plain way")
    verdicts = []
    try:
        source = Timed(Drawn() if asked.drawn else Rendered(asked.weights, device=asked.device))
        plain = None if asked.drawn or asked.device != "cpu" else Plain(asked.weights)
    except CheckpointError as error:
        print(f"avatar: {error}")
        return 1
    with MUTANTS[asked.mutant]() if asked.mutant else nullcontext():
        for verdict in _verdicts(source, plain, clips=asked.clips, minutes=asked.minutes):
            verdicts.append(verdict)
            print(verdict, flush=True)
    broken = [verdict for verdict in verdicts if verdict.broken]
    correlations = [v.figures["correlation"] for v in verdicts if "correlation" in v.figures] or [0.0]
    print(
        f"avatar: {len(verdicts) - len(broken)} of {len(verdicts)} verdicts within the limits, correlation "
        f"{min(correlations):.3f} at least and {mean(correlations):.3f} in the mean, "
        f"{source.frames_per_second:.1f} frames/s"
        + (f"; broken: {', '.join(verdict.name for verdict in broken)}" if broken else "")
    )
    return 1 if broken else 0


def _verdicts(source: Source, plain: Source | None, *, clips: int, minutes: int) -> Iterator[Verdict]:
    for number, clip in enumerate(short_clips(clips)):
        frames = source.frames(clip)
        yield spoken(clip, frames)
        if plain is not None and number < PLAIN_CLIPS:
            yield same(clip, frames, plain.frames(clip))
    silence = silent_clip()
    yield quiet(silence, source.frames(silence))
    for number in range(minutes):
        minute = long_clip(number)
        yield steady(minute, source.frames(minute))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
