"""`realvideo render`: the options. One file is rendered here, without queue, database or server.

The names and defaults are those of the tool this project began from, so its command lines go on working.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from cli.errors import CommandError, ExitCode
from worker.pipeline.audio_mode import AudioMode
from worker.pipeline.precision import MemoryUse, Precision
from worker.pipeline.sink_rotation import SinkRotation

Choice = TypeVar("Choice", bound=StrEnum)

SIZE_POLICIES = "exact, or by the picture: reference (about 512 × 512 pixels, snapped ratios), reference_bars"
AUDIO_MODES = "windowed: long sound without seams; reference: in pieces of 5 s, as the released code"
SINK_ROTATIONS = "exact: no drift in long videos; reference_rounding: drifts as the released code"
RENDER_LAYOUTS = ("auto", "latency", "latency-shared")
LAYOUTS = (
    "latency: the first GPU has encoders and VAE, the others the DiT; latency-shared: all have the DiT, the first one "
    "the rest as well; auto: whichever gives the DiT more GPUs"
)
PRECISIONS = "bf16, or on a GPU fp8 or fp8-attention, which are faster. Default: bf16, with --low_memory fp8 if it can"


def render(
    context: typer.Context,
    audio: Annotated[
        Path,
        typer.Option("--audio", "-a", dir_okay=False, help="Speech: WAV, MP3, FLAC, M4A, OGG, or a video's sound."),
    ],
    image: Annotated[Path, typer.Option("--image", "-i", dir_okay=False, help="Portrait: PNG, JPEG or WebP.")],
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="The MP4 to write.")] = Path(
        "output.mp4"
    ),
    fps: Annotated[int, typer.Option(min=1, max=60, help="Frames per second of the MP4.")] = 16,
    size: Annotated[str, typer.Option("--size_policy", "--size-policy", help=f"{SIZE_POLICIES}.")] = "exact",
    width: Annotated[int, typer.Option(min=16, help="Pixels, a multiple of 16, of an exact size.")] = 480,
    height: Annotated[int, typer.Option(min=16, help="Pixels, a multiple of 16, of an exact size.")] = 640,
    denoising_steps: Annotated[
        int, typer.Option("--denoising_steps", "--denoising-steps", help="2 is faster, 4 is finer.")
    ] = 2,
    audio_mode: Annotated[
        str, typer.Option("--audio_mode", "--audio-mode", help=f"{AUDIO_MODES}.")
    ] = AudioMode.WINDOWED.value,
    sink_rotation: Annotated[
        str, typer.Option("--sink_rotation", "--sink-rotation", help=f"{SINK_ROTATIONS}.")
    ] = SinkRotation.EXACT.value,
    _no_compile: Annotated[
        bool,
        typer.Option(
            "--no_compile", "--no-compile", help="Taken for the sake of old command lines: nothing is compiled here."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same video.")] = 0,
    prompt: Annotated[str | None, typer.Option(help="What the person does. Default: talking.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Which network: tiny or 14b. Default: 14b with --weights, else tiny.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(envvar="REALVIDEO_WEIGHTS", file_okay=False, help="Directory of the released weights."),
    ] = None,
    layout: Annotated[str, typer.Option(help=f"How the GPUs share the video. {LAYOUTS}.")] = "auto",
    ranks: Annotated[
        int | None, typer.Option(min=1, help="Processes that share the work, each on a GPU of its own, instead.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help=f"{PRECISIONS}.")] = None,
    low_memory: Annotated[
        bool,
        typer.Option(
            "--low_memory", "--low-memory", help="Fit a 32 GB GPU: fp8 where there is, prompts encoded on the CPU."
        ),
    ] = False,
) -> None:
    """Render one video here, on the GPUs of CUDA_VISIBLE_DEVICES or on the CPU."""
    from cli.rendering import Wanted, render_file
    from worker.media.picture import SizeRule, size_policy

    if layout not in RENDER_LAYOUTS:
        raise CommandError(f"--layout takes {' or '.join(RENDER_LAYOUTS)}.", exit_code=ExitCode.USAGE)
    if ranks is not None and layout != "auto":
        raise CommandError("--ranks and --layout say the same: leave one out.", exit_code=ExitCode.USAGE)
    rule = _one_of(SizeRule, "--size_policy", size)
    if denoising_steps not in (2, 4):
        raise CommandError("--denoising_steps takes 2 or 4.", exit_code=ExitCode.USAGE)
    if width % 16 or height % 16:
        raise CommandError("--width and --height take multiples of 16.", exit_code=ExitCode.USAGE)
    if rule is not SizeRule.EXACT and (_is_given(context, "width") or _is_given(context, "height")):
        raise CommandError(
            f"with --size_policy {rule} the picture decides: leave --width and --height out.", exit_code=ExitCode.USAGE
        )
    wanted = Wanted(
        audio=audio,
        image=image,
        output=output,
        fps=fps,
        size=size_policy(rule, width=width, height=height),
        denoising_steps=denoising_steps,
        audio_mode=_one_of(AudioMode, "--audio_mode", audio_mode),
        sink_rotation=_one_of(SinkRotation, "--sink_rotation", sink_rotation),
        seed=seed,
        prompt=prompt,
        preset=preset or ("14b" if weights else "tiny"),
        weights=weights,
        layout=layout if ranks is None else f"1x{ranks}",
        precision=None if precision is None else _one_of(Precision, "--precision", precision),
        memory=MemoryUse.LOW if low_memory else MemoryUse.AMPLE,
    )
    render_file(wanted)


def _one_of(choices: type[Choice], option: str, value: str) -> Choice:
    """The choice of that name; values take both spellings, as the options do."""
    for choice in choices:
        if choice.replace("-", "_") == value.replace("-", "_"):
            return choice
    raise CommandError(f"{option} takes {' or '.join(choices)}.", exit_code=ExitCode.USAGE)


def _is_given(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"
