"""Groups of stand-in ranks, and requests that steer them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from worker.group.group import Group, GroupSettings
from worker.group.request import RenderProgress, RenderRequest

MakeNamed = Callable[..., RenderRequest]

STAND_IN = "tests.unit.group.stand_in_rank"


def stand_in_group(**settings: object) -> Group:
    return Group(GroupSettings(**{"ranks": 3, "start_deadline_s": 30.0, **settings}), rank_module=STAND_IN)  # type: ignore[arg-type]


def never() -> bool:
    return False


def ignore(progress: RenderProgress) -> None:
    pass


def members_of(groups: tuple[int, ...]) -> list[psutil.Process]:
    """Live processes of these process groups."""
    found = []
    for process in psutil.process_iter():
        try:
            if psutil.os.getpgid(process.pid) in groups and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


@pytest.fixture
def group() -> Iterator[Group]:
    with stand_in_group(progress_deadline_s=1.0) as group:
        yield group


@pytest.fixture
def request_of(tmp_path: Path) -> Callable[[str], RenderRequest]:
    def make(orders: str) -> RenderRequest:
        return RenderRequest(
            name="test", speech=tmp_path / "speech.wav", picture=tmp_path / "picture.png", sound=tmp_path / "sound.wav",
            video=tmp_path / "video.mp4", prompt=orders, seed=0, width=64, height=64, frames=16, output_fps=16,
            duration_s=1.0, denoising_steps=2,
        )  # fmt: skip

    return make


@pytest.fixture
def named(request_of: Callable[[str], RenderRequest]) -> MakeNamed:
    """Requests with names and directories of their own."""

    def make(name: str, orders: str = "") -> RenderRequest:
        request = request_of(orders)
        directory = request.video.parent / name
        directory.mkdir(exist_ok=True)
        return replace(request, name=name, video=directory / "video.mp4")

    return make
