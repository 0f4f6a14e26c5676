"""`realvideo bench` and `python -m worker.bench`: the options. Loads no network, so `--help` answers at once."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from worker.bench.figures import Part
from worker.bench.plan import FLOAT32, Device, Plan, UnusableOptions, resolved_device
from worker.pipeline.config import PRESETS
from worker.pipeline.precision import MemoryUse, Precision
from worker.weights.catalog import BUNDLED

Choice = TypeVar("Choice", bound=StrEnum)

ALL = "all"
USUAL_RANKS = (1,)
USUAL_SIZE = (480, 640)


class NotAllMeasured(Exception):
    """The report is written and printed, and misses something that was asked for."""


def bench(
    what: Annotated[
        list[str] | None,
        typer.Option(help="dit, vae, render or all, with commas. Default: all, or with --compare nothing more."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="avatar, tiny or 14b. Default: 14b on a GPU, avatar on a CPU.")
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(Precision)}, with commas. --compare also takes {FLOAT32}. "
            "Default: bf16 and fp8 on a GPU, bf16 (there float32) on a CPU."
        ),
    ] = None,
    steps: Annotated[list[str] | None, typer.Option(help="2, 4 or 2,4. Default: both.")] = None,
    ranks: Annotated[
        list[str] | None,
        typer.Option(
            help="Processes of a group, with commas: 1 does everything; in more, rank 0 has encoders and VAE and the "
            "others share the DiT (a DiT row of 3 ranks takes 2 GPUs). Default: 1."
        ),
    ] = None,
    replicas: Annotated[
        int, typer.Option(min=1, help="Groups that render at the same time, in the rows of whole renders.")
    ] = 1,
    gpus: Annotated[
        list[str] | None,
        typer.Option(
            help="The GPU of each rank, of one replica after the other, with commas; the same one twice is shared. "
            "Default: 0,1,…"
        ),
    ] = None,
    device: Annotated[Device, typer.Option(help="Default: a GPU where the driver shows one.")] = Device.AUTO,
    size: Annotated[
        str | None,
        typer.Option(help="Width x height of the video in pixels. Default: 480x640, for avatar 192x192."),
    ] = None,
    blocks: Annotated[
        int, typer.Option(min=1, help="Blocks (8 frames, half a second of video) that count in each row.")
    ] = 24,
    seconds: Annotated[
        float | None, typer.Option(min=0.5, help="The same as seconds of video; overrides --blocks.")
    ] = None,
    memory: Annotated[
        MemoryUse, typer.Option(help="ample, or low: the text encoder on the CPU, decoding in smaller pieces.")
    ] = MemoryUse.AMPLE,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare",
            help="The error of each --precision against the first: the flow at each step of the first block from the "
            "same latents, the latents of a free-running stream, and its pixels.",
        ),
    ] = False,
    compared_blocks: Annotated[int, typer.Option(min=1, help="Length of the stream that is compared.")] = 40,
    audio: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="WAV that the compared video speaks.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Portrait of the compared video.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            envvar="REALVIDEO_WEIGHTS",
            exists=True,
            file_okay=False,
            help="Directory of the released weights. Without it they are drawn from a seed, which takes the same time "
            "in use but says little about errors. Those of avatar come with the code.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of each rank on a CPU. Default: the cores, shared out.")
    ] = None,
    json: Annotated[Path | None, typer.Option(dir_okay=False, help="Also write everything that was measured.")] = None,
) -> None:
    """Measure this machine: DiT, VAE and whole renders, each beside the least time that its arithmetic can take here.

    The floor is measured in the same run, just before and after each row: matrix products, attention and memory traffic
    at the real shapes, each alone and warm. Progress goes to stderr, tables to stdout; the last line is a summary.
    """
    from worker.bench.run import run
    from worker.bench.table import text

    on = resolved_device(device)
    counts = _numbers("--ranks", ranks) or USUAL_RANKS
    names = _names(precision) or ((Precision.FULL, Precision.FP8) if on is Device.CUDA else (Precision.FULL,))
    if compare and precision is None:
        names = (Precision.FULL, Precision.FP8) if on is Device.CUDA else (FLOAT32, Precision.FULL)
    _known("--precision", names, (FLOAT32, *Precision))
    parts = _parts(what, comparing=compare)
    preset = preset or ("14b" if on is Device.CUDA else "avatar")
    width, height = _usual_size(preset) if size is None else _size(size)
    plan = Plan(
        preset=preset,
        device=on,
        parts=parts,
        precisions=tuple(str(name) for name in names if not (compare and name == FLOAT32)),
        compare=tuple(str(name) for name in names) if compare else (),
        steps=_numbers("--steps", steps) or (2, 4),
        ranks=counts,
        replicas=replicas,
        gpus=_numbers("--gpus", gpus),
        width=width,
        height=height,
        blocks=blocks if seconds is None else max(1, round(2 * seconds)),
        compared_blocks=compared_blocks,
        memory=memory,
        weights=BUNDLED.get(preset, weights),
        audio=audio,
        image=image,
        threads=threads or (None if on is Device.CUDA else max(1, (os.cpu_count() or 1) // (replicas * max(counts)))),
    )
    report = run(plan, say=partial(typer.echo, err=True))
    if json is not None:
        report.write(json)
    sys.stdout.write(text(report))
    if report.not_measured:
        raise NotAllMeasured(f"{len(report.not_measured)} of what was asked for could not be measured")


def _parts(what: list[str] | None, *, comparing: bool) -> tuple[Part, ...]:
    names = _names(what) or (() if comparing else (ALL,))
    _known("--what", names, (ALL, *Part))
    return tuple(Part) if ALL in names else tuple(Part(name) for name in names)


def _names(given: list[str] | None) -> tuple[str, ...]:
    """Each once, in their order; an option may be given several times, and hold several with commas."""
    return tuple(dict.fromkeys(name.strip() for one in given or [] for name in one.split(",") if name.strip()))


def _numbers(option: str, given: list[str] | None) -> tuple[int, ...]:
    try:
        return tuple(int(name) for one in given or [] for name in one.split(",") if name.strip())
    except ValueError:
        raise UnusableOptions(f"{option} takes numbers") from None


def _known(option: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in names:
        if name not in known:
            raise UnusableOptions(f"{option} takes {', '.join(known)}, not {name}")


def _usual_size(preset: str) -> tuple[int, int]:
    """Width and height. Of a preset that there is not it does not matter: the plan refuses it."""
    known = PRESETS[preset].picture_sizes if preset in PRESETS else ()
    return known[0] if known else USUAL_SIZE


def _size(size: str) -> tuple[int, int]:
    width, times, height = size.lower().partition("x")
    if not times or not width.isdecimal() or not height.isdecimal():
        raise UnusableOptions(f"--size takes WIDTHxHEIGHT, as 480x640, not {size}")
    return int(width), int(height)
