"""How much of a render is not network: `python -m tests.bench.outside --help`.

Renders the sample speech and portrait through a real group of processes, files in and MP4 out, and reports frames per
second and, for each rank, what share of the render it spent in the network (encoders, DiT, VAE) and on everything else.
The ranks are sampled (`sampled_rank.py`), so the shares are good to a percent or so.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.samples import PORTRAIT
from tests.bench.sampled_rank import DIRECTORY, NETWORK, Doing
from tests.bench.talking_head import write_speech
from worker.group.group import Group, GroupSettings
from worker.group.request import RenderProgress, RenderRequest
from worker.media.inputs import PictureFile, prepare
from worker.media.length import LengthPolicy
from worker.media.limits import MediaLimits
from worker.media.measure import measure
from worker.media.picture import ExactSize


@dataclass(frozen=True)
class Steps:
    """Seconds of a render from its files to its finished video; `start` is not a job's, in a warm group."""

    prepare: float
    start: float
    render: float
    measure: float


@dataclass(frozen=True)
class Share:
    """Seconds of one rank by what it did, and the busiest places outside the network."""

    rank: int
    doing: dict[str, float]
    places: dict[str, float]


@dataclass(frozen=True)
class Seen:
    steps: Steps
    frames: int
    blocks: int
    encoding_s: float
    rendering_s: float
    muxing_s: float
    ranks: list[Share]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--weights", type=Path, help="directory of released weights, for presets that need it")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda", "auto"])
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of each rank")
    parser.add_argument("--seconds", type=float, default=10.0, help="of speech, the sample over and over")
    parser.add_argument("--width", type=int, default=240)
    parser.add_argument("--height", type=int, default=320)
    parser.add_argument("--json", type=Path, help="write what was measured here")
    asked = parser.parse_args()
    settings = GroupSettings(
        preset=asked.preset,
        weights=asked.weights,
        device=asked.device,
        ranks=asked.ranks,
        threads_per_rank=asked.threads,
    )
    with tempfile.TemporaryDirectory() as directory:
        seen = rendered(settings, asked.seconds, size=ExactSize(asked.width, asked.height), directory=Path(directory))
    print(_summary(seen))
    if asked.json is not None:
        asked.json.write_text(json.dumps(asdict(seen), indent=2))


def rendered(settings: GroupSettings, seconds: float, *, size: ExactSize, directory: Path) -> Seen:
    os.environ[DIRECTORY] = str(directory)
    began = time.monotonic()
    inputs = prepare(
        write_speech(directory / "over and over.wav", seconds=seconds),
        PictureFile(PORTRAIT),
        size=size,
        duration_s=None,
        length_policy=LengthPolicy.REJECT,
        limits=MediaLimits(),
        into=directory,
    )
    prepared = time.monotonic()
    with Group(settings, rank_module="tests.bench.sampled_rank") as group:
        started = time.monotonic()
        request = RenderRequest(
            name="outside",
            speech=inputs.speech,
            picture=inputs.picture,
            sound=inputs.sound,
            video=directory / "video.mp4",
            prompt="A character is talking.",
            seed=0,
            width=inputs.width,
            height=inputs.height,
            frames=inputs.frames,
            output_fps=16,
            duration_s=inputs.duration_s,
            denoising_steps=2,
        )
        result = group.render(request, on_progress=_ignore, should_cancel=lambda: False)
        rendered = time.monotonic()
    measuring = time.monotonic()
    measure(result.video, sound=inputs.sound)
    measured = time.monotonic()
    return Seen(
        steps=Steps(prepared - began, started - prepared, rendered - started, measured - measuring),
        frames=result.frames,
        blocks=result.blocks,
        encoding_s=result.encoding_s,
        rendering_s=result.rendering_s,
        muxing_s=result.muxing_s,
        ranks=[_share(rank, directory, render_s=rendered - started) for rank in range(settings.ranks)],
    )


def _ignore(progress: RenderProgress) -> None:
    pass


def _share(rank: int, directory: Path, *, render_s: float) -> Share:
    sampled = json.loads((directory / f"{rank}.json").read_text())
    each_s = render_s / max(1, sum(sampled["doing"].values()))
    places = sorted(sampled["places"].items(), key=lambda place: -place[1])[:8]
    return Share(
        rank=rank,
        doing={doing: sampled["doing"].get(doing, 0) * each_s for doing in Doing},
        places={place: count * each_s for place, count in places},
    )


def _summary(seen: Seen) -> str:
    steps = seen.steps
    lines = [
        f"prepared in {steps.prepare:.2f} s, group started in {steps.start:.2f} s, rendered in {steps.render:.2f} s"
        f" (first block {seen.encoding_s:.2f}, on to the last {seen.rendering_s:.2f}, muxed {seen.muxing_s:.2f}),"
        f" measured in {steps.measure:.2f} s",
        f"{seen.frames} frames: {seen.frames / steps.render:.1f} frames/s of the whole render",
    ]
    for share in seen.ranks:
        total = sum(share.doing.values())
        network = sum(share.doing[doing] for doing in NETWORK)
        parts = ", ".join(f"{doing} {100 * s / total:.1f}" for doing, s in share.doing.items())
        lines.append(f"rank {share.rank}: network {100 * network / total:.1f} % ({parts})")
        lines += [f"    {1000 * s:6.0f} ms {place}" for place, s in share.places.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
