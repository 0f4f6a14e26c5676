"""`realvideo avatar`: portraits of the kind that the avatar preset knows. Knows seeds and files."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.errors import CommandError, ExitCode
from worker.pipeline.config import AVATAR


class Shape(StrEnum):
    """Of a portrait."""

    SQUARE = "square"
    UPRIGHT = "upright"


SIZES = dict(zip((Shape.SQUARE, Shape.UPRIGHT), AVATAR.picture_sizes, strict=True))
"""Width and height in pixels."""


def avatar() -> typer.Typer:
    group = typer.Typer(help="Portraits of the kind that the avatar preset knows.", no_args_is_help=True)
    for command in (draw, portraits):
        group.command()(command)
    return group


def draw(
    seed: Annotated[
        int, typer.Option(min=0, help="Who it is: the same number draws the same person, any other one somebody else.")
    ] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="The PNG to write or overwrite. Default: person-SEED.png"),
    ] = None,
    shape: Annotated[Shape, typer.Option(help="192 x 192 or 144 x 192 pixels.")] = Shape.SQUARE,
) -> None:
    """Draw a person whose portrait the avatar preset can let speak."""
    from PIL import Image

    from worker.training.drawing import portrait
    from worker.training.faces import Frame, face

    output = output or Path(f"person-{seed}.png")
    if output.suffix.lower() != ".png":
        raise CommandError(f"{output} has to end in .png.", exit_code=ExitCode.USAGE)
    width, height = SIZES[shape]
    drawn = Image.fromarray(portrait(face(seed), Frame(width, height)))
    try:
        drawn.save(output)
    except OSError as error:
        raise CommandError(f"{output} cannot be written: {error.strerror}.", exit_code=ExitCode.USAGE) from error
    typer.echo(f"{output}: {width} x {height} pixels")


def portraits() -> None:
    """List the portraits that come with the code."""
    from infra.samples import portraits

    typer.echo("\n".join(map(str, portraits())))
