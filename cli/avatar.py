"""`realvideo avatar`: portraits of the kind that the avatar is trained on. Knows seeds and files."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.errors import CommandError, ExitCode


class Shape(StrEnum):
    """Of a portrait."""

    SQUARE = "square"
    UPRIGHT = "upright"


SIZES = {Shape.SQUARE: (192, 192), Shape.UPRIGHT: (144, 192)}
"""Width and height in pixels, as the avatar is trained on."""


def avatar() -> typer.Typer:
    group = typer.Typer(help="Cartoon portraits, drawn from a seed.", no_args_is_help=True)
    group.callback()(_only_subcommands)
    group.command()(draw)
    return group


def _only_subcommands() -> None:
    """Without this, typer would make the only command the group itself."""


def draw(
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same person.")] = 0,
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="The PNG to write.")] = Path(
        "portrait.png"
    ),
    shape: Annotated[Shape, typer.Option(help="192 x 192 or 144 x 192 pixels.")] = Shape.SQUARE,
) -> None:
    """Draw a person."""
    from PIL import Image

    from worker.training.drawing import portrait
    from worker.training.faces import Frame, face

    place = output.absolute().parent
    if not place.is_dir() or output.suffix.lower() != ".png":
        raise CommandError(f"{output} is not a .png in a directory that exists.", exit_code=ExitCode.USAGE)
    width, height = SIZES[shape]
    Image.fromarray(portrait(face(seed), Frame(width, height))).save(output)
    typer.echo(f"{output}: {width} x {height} pixels")
