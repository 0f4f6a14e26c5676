"""How fast this device does one kind of work alone: warm, over and over, on random numbers.

Knows how a call is repeated and timed, and nothing of networks. A GPU under its power limit slows its clock within
milliseconds, and less for numbers that are mostly zeros; so each kind of work is repeated for long enough to settle,
after a warm-up, on random operands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from worker.bench.stopwatch import stopwatch, wait_for

CALIBRATION_CALLS = 3


@dataclass(frozen=True)
class Pace:
    """For how many seconds the device is warmed up, and each kind of work is repeated."""

    warm_s: float
    piece_s: float

    @classmethod
    def on(cls, device: torch.device) -> Pace:
        """Long enough for a GPU's clock to settle; a processor needs no such time."""
        return cls(warm_s=1.0, piece_s=0.3) if device.type == "cuda" else cls(warm_s=0.0, piece_s=0.02)


@dataclass(frozen=True)
class Probe:
    """One call of work of a known amount. Probes of the same name are ways to do the same; the fastest counts."""

    name: str
    shape: str
    way: str
    amount: float
    """Of one call, in FLOP or in bytes."""
    call: Callable[[int], object]
    """Does it; the number of the call chooses among operands, so that no cache keeps them."""


@dataclass(frozen=True)
class Ceiling:
    """How fast one probe was."""

    name: str
    shape: str
    way: str
    amount: float
    us: float


def read_ceilings(probes: Iterable[Probe], *, device: torch.device, pace: Pace) -> tuple[Ceiling, ...]:
    """The time of a call of each probe, one after the other after warming up on the first.

    A probe is let go before the next is made, so that their operands need not fit beside each other.
    """
    read: list[Ceiling] = []
    for probe in probes:
        if pace.warm_s and not read:
            _repeat(probe, device=device, seconds=pace.warm_s)
        us = _repeat(probe, device=device, seconds=pace.piece_s)
        read.append(Ceiling(name=probe.name, shape=probe.shape, way=probe.way, amount=probe.amount, us=us))
        del probe
    return tuple(read)


def fastest(name: str, readings: Sequence[Sequence[Ceiling]]) -> Ceiling:
    """The fastest way to do what has this name, by the mean of its time over all readings.

    Raises KeyError where a reading has no such probe.
    """
    ways: dict[str, list[Ceiling]] = {}
    for ceiling in (one for reading in readings for one in reading if one.name == name):
        ways.setdefault(ceiling.way, []).append(ceiling)
    whole = [seen for seen in ways.values() if len(seen) == len(readings)]
    if not whole:
        raise KeyError(name)
    return min((_mean(seen) for seen in whole), key=lambda ceiling: ceiling.us)


def _mean(seen: Sequence[Ceiling]) -> Ceiling:
    return replace(seen[0], us=sum(one.us for one in seen) / len(seen))


def _repeat(probe: Probe, *, device: torch.device, seconds: float) -> float:
    once_us = _call(probe, CALIBRATION_CALLS, device=device)
    return _call(probe, max(CALIBRATION_CALLS, int(1e6 * seconds / once_us)), device=device)


def _call(probe: Probe, times: int, *, device: torch.device) -> float:
    probe.call(0)
    wait_for(device)
    watch = stopwatch(device)
    watch.mark()
    for number in range(times):
        probe.call(number)
    watch.mark()
    return max(1e-3, 1000 * watch.gaps_ms()[0] / times)
