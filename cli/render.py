"""`realvideo render`: the options. One file is rendered here, without queue, database or server.

The names and defaults are those of the tool this project began from, so its command lines go on working.
"""

from pathlib import Path
from typing import Annotated

import typer

from cli.errors import CommandError, ExitCode


def render(
    audio: Annotated[
        Path,
        typer.Option("--audio", "-a", dir_okay=False, help="Speech: WAV, MP3, FLAC, M4A, OGG, or a video's sound."),
    ],
    image: Annotated[Path, typer.Option("--image", "-i", dir_okay=False, help="Portrait: PNG, JPEG or WebP.")],
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="The MP4 to write.")] = Path(
        "output.mp4"
    ),
    fps: Annotated[int, typer.Option(min=1, max=60, help="Frames per second of the MP4.")] = 16,
    width: Annotated[int, typer.Option(min=16, help="Pixels, a multiple of 16.")] = 480,
    height: Annotated[int, typer.Option(min=16, help="Pixels, a multiple of 16.")] = 640,
    denoising_steps: Annotated[
        int, typer.Option("--denoising_steps", "--denoising-steps", help="2 is faster, 4 is finer.")
    ] = 2,
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
    ranks: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes that share the work. Default: one per GPU of CUDA_VISIBLE_DEVICES, or one."
        ),
    ] = None,
) -> None:
    """Render one video here, on the GPUs of CUDA_VISIBLE_DEVICES or on the CPU."""
    from cli.rendering import Wanted, render_file

    if denoising_steps not in (2, 4):
        raise CommandError("--denoising_steps takes 2 or 4.", exit_code=ExitCode.USAGE)
    if width % 16 or height % 16:
        raise CommandError("--width and --height take multiples of 16.", exit_code=ExitCode.USAGE)
    wanted = Wanted(
        audio=audio,
        image=image,
        output=output,
        fps=fps,
        width=width,
        height=height,
        denoising_steps=denoising_steps,
        seed=seed,
        prompt=prompt,
        preset=preset or ("14b" if weights else "tiny"),
        weights=weights,
        ranks=ranks,
    )
    render_file(wanted)
