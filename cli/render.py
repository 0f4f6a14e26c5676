"""`realvideo render`: the options. One file is rendered here, without queue, database or server.

The names and defaults are those of the tool this project began from, so its command lines go on working.
"""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from cli.errors import CommandError, ExitCode
from worker.pipeline.audio_mode import AudioMode
from worker.pipeline.precision import MemoryUse, Precision
from worker.pipeline.sink_rotation import SinkRotation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.gpus import Gpu
    from worker.media.picture import SizePolicy, SizeRule

Choice = TypeVar("Choice", bound=StrEnum)

SIZE_POLICIES = (
    "exact, or by the picture: reference (about 512 × 512 pixels, snapped ratios), reference_bars. "
    "Default: exact; with the avatar preset reference, which is then the nearer one of its own two sizes"
)
USUAL_WIDTH, USUAL_HEIGHT = 480, 640
AUDIO_MODES = "windowed: long sound without seams; reference: in pieces of 5 s, as the released code"
SINK_ROTATIONS = "exact: no drift in long videos; reference_rounding: drifts as the released code"
RENDER_LAYOUTS = ("auto", "latency", "latency-shared")
LAYOUTS = (
    "latency: the first GPU has encoders and VAE, the others the DiT; latency-shared: all have the DiT, the first one "
    "the rest as well; auto: whichever gives the DiT more GPUs"
)
PRECISIONS = "bf16, or on a GPU fp8 or fp8-attention, which are faster. Default: bf16, with --low_memory fp8 if it can"


AUDIO = Annotated[
    Path, typer.Option("--audio", "-a", dir_okay=False, help="Speech: WAV, MP3, FLAC, M4A, OGG, or a video's sound.")
]
IMAGE = Annotated[Path, typer.Option("--image", "-i", dir_okay=False, help="Portrait: PNG, JPEG or WebP.")]
OUTPUT = Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="The MP4 to write.")]
FPS = Annotated[int, typer.Option(min=1, max=60, help="Frames per second of the MP4.")]
SIZE_POLICY = Annotated[str | None, typer.Option("--size_policy", "--size-policy", help=f"{SIZE_POLICIES}.")]
SIDE = "Pixels, a multiple of 16, of an exact size."
BY_PICTURE = "With avatar the picture decides."
WIDTH = Annotated[int | None, typer.Option(min=16, help=f"{SIDE} Default: {USUAL_WIDTH}. {BY_PICTURE}")]
HEIGHT = Annotated[int | None, typer.Option(min=16, help=f"{SIDE} Default: {USUAL_HEIGHT}. {BY_PICTURE}")]
DENOISING_STEPS = Annotated[
    int, typer.Option("--denoising_steps", "--denoising-steps", help="2 is faster, 4 is finer.")
]
AUDIO_MODE = Annotated[str, typer.Option("--audio_mode", "--audio-mode", help=f"{AUDIO_MODES}.")]
SINK_ROTATION = Annotated[str, typer.Option("--sink_rotation", "--sink-rotation", help=f"{SINK_ROTATIONS}.")]
NO_COMPILE = Annotated[
    bool,
    typer.Option(
        "--no_compile", "--no-compile", help="Taken for the sake of old command lines: nothing is compiled here."
    ),
]
SEED = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same video.")]
PROMPT = Annotated[
    str | None, typer.Option(help="What the person does; avatar talks whatever it says. Default: talking.")
]
PRESET = Annotated[
    str | None,
    typer.Option(
        help="Which network: avatar (small, for drawn portraits), 14b, or tiny (for tests: draws patterns). "
        "Default: 14b with --weights and a GPU, else avatar."
    ),
]
WEIGHTS = Annotated[
    Path | None,
    typer.Option(envvar="REALVIDEO_WEIGHTS", exists=True, file_okay=False, help="Directory of the released weights."),
]
LAYOUT = Annotated[str, typer.Option(help=f"How the GPUs share the video. {LAYOUTS}.")]
RANKS = Annotated[
    int | None, typer.Option(min=1, help="Processes that share the work, each on a GPU of its own, instead.")
]
PRECISION = Annotated[str | None, typer.Option(help=f"{PRECISIONS}.")]
LOW_MEMORY = Annotated[
    bool,
    typer.Option(
        "--low_memory", "--low-memory", help="Fit a 32 GB GPU: fp8 where there is, prompts encoded on the CPU."
    ),
]


def render(
    audio: AUDIO,
    image: IMAGE,
    output: OUTPUT = Path("output.mp4"),
    fps: FPS = 16,
    size: SIZE_POLICY = None,
    width: WIDTH = None,
    height: HEIGHT = None,
    denoising_steps: DENOISING_STEPS = 2,
    audio_mode: AUDIO_MODE = AudioMode.WINDOWED.value,
    sink_rotation: SINK_ROTATION = SinkRotation.EXACT.value,
    _no_compile: NO_COMPILE = False,
    seed: SEED = 0,
    prompt: PROMPT = None,
    preset: PRESET = None,
    weights: WEIGHTS = None,
    layout: LAYOUT = "auto",
    ranks: RANKS = None,
    precision: PRECISION = None,
    low_memory: LOW_MEMORY = False,
) -> None:
    """Render one video here, on the GPUs of CUDA_VISIBLE_DEVICES or on the CPU."""
    from cli.rendering import Wanted, render_file
    from worker.gpus import visible_gpus

    if layout not in RENDER_LAYOUTS:
        raise CommandError(f"--layout takes {' or '.join(RENDER_LAYOUTS)}.", exit_code=ExitCode.USAGE)
    if ranks is not None and layout != "auto":
        raise CommandError("--ranks and --layout say the same: leave one out.", exit_code=ExitCode.USAGE)
    if denoising_steps not in (2, 4):
        raise CommandError("--denoising_steps takes 2 or 4.", exit_code=ExitCode.USAGE)
    rule = _size_rule(size, width=width, height=height)
    gpus = visible_gpus()
    preset = preset or _usual_preset(weights, gpus)
    wanted = Wanted(
        audio=audio,
        image=image,
        output=output,
        fps=fps,
        size=_size(preset, rule, width=width, height=height),
        denoising_steps=denoising_steps,
        audio_mode=_one_of(AudioMode, "--audio_mode", audio_mode),
        sink_rotation=_one_of(SinkRotation, "--sink_rotation", sink_rotation),
        seed=seed,
        prompt=prompt,
        preset=preset,
        weights=weights,
        layout=layout if ranks is None else f"1x{ranks}",
        precision=None if precision is None else _one_of(Precision, "--precision", precision),
        memory=MemoryUse.LOW if low_memory else MemoryUse.AMPLE,
    )
    render_file(wanted, gpus)


def _size_rule(name: str | None, *, width: int | None, height: int | None) -> "SizeRule | None":
    """None where none is named. Raises `CommandError` for sides that are no sides, or that the rule has no use for."""
    from worker.media.picture import SizeRule

    rule = None if name is None else _one_of(SizeRule, "--size_policy", name)
    sides = [side for side in (width, height) if side is not None]
    if any(side % 16 for side in sides):
        raise CommandError("--width and --height take multiples of 16.", exit_code=ExitCode.USAGE)
    if sides and rule not in (None, SizeRule.EXACT):
        raise CommandError(
            f"with --size_policy {rule} the picture decides: leave --width and --height out.", exit_code=ExitCode.USAGE
        )
    return rule


def _usual_preset(weights: Path | None, gpus: "Sequence[Gpu]") -> str:
    """Says why where it is not the released network."""
    from worker.usual_preset import usual_preset

    chosen = usual_preset(weights=weights, gpus=gpus, weights_named_by="--weights")
    if chosen.why is not None:
        typer.echo(chosen.why, err=True)
    return chosen.name


def _size(preset: str, rule: "SizeRule | None", *, width: int | None, height: int | None) -> "SizePolicy":
    """Of the rule that was asked for, or of the preset's own. Raises `CommandError` for what the preset cannot draw."""
    from worker.media.picture import ImpossibleSize, SizeRule, size_policy
    from worker.pipeline.config import PRESETS, check_size
    from worker.pipeline.errors import InvalidRender

    if preset not in PRESETS:
        raise CommandError(f"there is no preset {preset}; there are {', '.join(PRESETS)}.", exit_code=ExitCode.USAGE)
    config = PRESETS[preset]
    if rule is None:
        by_picture = config.picture_sizes and width is None and height is None
        rule = SizeRule.REFERENCE if by_picture else SizeRule.EXACT
    width, height = width or USUAL_WIDTH, height or USUAL_HEIGHT
    try:
        if rule is SizeRule.EXACT:
            check_size(config, width=width, height=height)
        return size_policy(rule, width=width, height=height, known=config.picture_sizes)
    except (InvalidRender, ImpossibleSize) as error:
        raise CommandError(f"{str(error).rstrip('.')}.", exit_code=ExitCode.USAGE) from error


def _one_of(choices: type[Choice], option: str, value: str) -> Choice:
    """The choice of that name; values take both spellings, as the options do."""
    for choice in choices:
        if choice.replace("-", "_") == value.replace("-", "_"):
            return choice
    raise CommandError(f"{option} takes {' or '.join(choices)}.", exit_code=ExitCode.USAGE)
