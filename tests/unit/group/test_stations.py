"""The rule of admission: when a node takes one more video."""

import pytest

from worker.group import stations as stations_module
from worker.group.request import RenderPhase, RenderProgress
from worker.group.stations import FINISHING_AT_MOST, LEAST_AHEAD_S, PREPARE_AHEAD_S, Station, Stations, Visit


class Clock:
    """Stands in the place of `time` in the module."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stations_module, "time", clock)
    return clock


def test_a_node_without_videos_has_a_place() -> None:
    assert Stations().has_place()


@pytest.mark.parametrize("station", [Station.PREPARING, Station.WAITING])
def test_nobody_comes_while_one_is_before_the_drawing(station: Station) -> None:
    stations = Stations()
    visit = _enter(stations, station)
    assert not stations.has_place()
    assert stations.admit("another", timeout_s=0.01) is None
    stations.leave(visit)
    assert stations.has_place()


def test_nobody_comes_while_the_drawing_has_long_to_go(clock: Clock) -> None:
    stations = Stations()
    _enter(stations, Station.DRAWING)
    blocks = 1 + round(PREPARE_AHEAD_S / 0.5) + 10
    assert not stations.has_place(), "how long it takes is not known yet"
    for block in range(1, blocks + 1):
        clock.now += 0.5
        stations.note(RenderProgress(RenderPhase.RENDERING, block, blocks))
        is_over_soon = (blocks - block) * 0.5 <= PREPARE_AHEAD_S and block > 1
        assert stations.has_place() == is_over_soon, block
    assert stations.has_place()


@pytest.mark.parametrize(("preparing_s", "ahead_s"), [(0.2, LEAST_AHEAD_S), (4.0, 12.0), (60.0, PREPARE_AHEAD_S)])
def test_the_next_comes_as_early_as_the_last_ones_needed(clock: Clock, preparing_s: float, ahead_s: float) -> None:
    stations = Stations()
    visit = stations.admit("first", timeout_s=0.01)
    assert visit is not None
    clock.now += preparing_s
    stations.move(visit, Station.WAITING)
    clock.now += 100.0
    stations.move(visit, Station.DRAWING)
    blocks = 100
    for block in range(1, blocks + 1):
        clock.now += 0.5
        stations.note(RenderProgress(RenderPhase.RENDERING, block, blocks))
        assert stations.has_place() == ((blocks - block) * 0.5 <= ahead_s), block


def test_the_pace_of_one_drawing_says_nothing_of_the_next(clock: Clock) -> None:
    stations = Stations()
    first = _enter(stations, Station.DRAWING)
    for block in (1, 2, 3):
        clock.now += 0.1
        stations.note(RenderProgress(RenderPhase.RENDERING, block, 3))
    second = _enter(stations, Station.WAITING)
    stations.move(first, Station.FINISHING)
    stations.move(second, Station.DRAWING)
    assert not stations.has_place()


def test_nobody_comes_while_too_many_are_finished() -> None:
    stations = Stations()
    visits = [_enter(stations, Station.FINISHING) for _ in range(FINISHING_AT_MOST)]
    assert not stations.has_place()
    stations.leave(visits[0])
    assert stations.has_place()


def test_the_node_is_said_to_be_at_what_is_nearest_to_the_drawing() -> None:
    stations = Stations()
    assert stations.current is None
    names = []
    for station in (Station.FINISHING, Station.PREPARING, Station.WAITING, Station.DRAWING):
        names.append(_enter(stations, station).name)
        assert stations.current == names[-1]
    assert stations.counts() == dict.fromkeys(Station, 1)


def _enter(stations: Stations, station: Station) -> Visit:
    """Somebody at this station, past the rule."""
    visit = Visit(f"at {station}", since=0.0, station=Station.PREPARING)
    stations._visits.append(visit)
    stations.move(visit, station)
    return visit
