"""Ceilings are read one probe at a time, and a floor is the sum of the fastest ways."""

import gc
import time
import weakref
from collections.abc import Iterator

import pytest
import torch

from worker.bench.ceilings import Ceiling, Pace, Probe, fastest, read_ceilings
from worker.bench.floor import dit_floor
from worker.bench.probes import dit_probes
from worker.bench.work import AttentionWork, BlockWork, Product, block_work
from worker.pipeline.compute import Compute
from worker.pipeline.config import preset
from worker.pipeline.precision import Precision

CPU = torch.device("cpu")
SHORT = Pace(warm_s=0.0, piece_s=0.005)


def test_a_call_is_timed_and_nothing_beside_it() -> None:
    (read,) = read_ceilings([probe("sleep", call=lambda _: time.sleep(0.002))], device=CPU, pace=SHORT)
    assert 2_000 <= read.us < 20_000


def test_operands_of_a_probe_are_gone_before_the_next_is_made() -> None:
    seen: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def probes() -> Iterator[Probe]:
        for name in "abc":
            gc.collect()
            alive.append(sum(reference() is not None for reference in seen))
            operand = torch.zeros(10)
            seen.append(weakref.ref(operand))
            yield probe(name, call=lambda _, operand=operand: operand.add_(1))  # type: ignore[misc]
            del operand

    assert [one.name for one in read_ceilings(probes(), device=CPU, pace=SHORT)] == ["a", "b", "c"]
    assert alive == [0, 0, 0]


def test_of_several_ways_the_one_that_is_fastest_over_all_readings_counts() -> None:
    before = [ceiling("attention", way="one", us=10), ceiling("attention", way="other", us=12)]
    after = [ceiling("attention", way="one", us=20), ceiling("attention", way="other", us=12)]
    assert fastest("attention", [before, after]).us == 12
    assert fastest("attention", [before]).way == "one"


def test_a_way_that_is_missing_from_a_reading_does_not_count() -> None:
    before = [ceiling("attention", way="one", us=1), ceiling("attention", way="other", us=12)]
    after = [ceiling("attention", way="other", us=14)]
    assert fastest("attention", [before, after]).us == 13
    with pytest.raises(KeyError):
        fastest("qkv", [before, after])


def test_the_floor_is_the_sum_of_all_calls_at_their_ceilings() -> None:
    work = BlockWork(
        products=(Product("qkv", 10, 20, 30, calls=3), Product("up", 10, 20, 40, calls=2)),
        attention=AttentionWork(queries=4, keys=8, heads=2, head_dim=16, calls=5),
        traffic=2e9,
    )
    reading = [
        ceiling("qkv", us=1_000, amount=work.products[0].flop),
        ceiling("up", us=2_000),
        ceiling("attention", us=4_000),
        ceiling("traffic", us=500, amount=1e9),
    ]
    floor = dit_floor(work, [reading])
    assert floor.ms == pytest.approx(3 * 1 + 2 * 2 + 5 * 4 + 1)
    qkv = floor.pieces[0]
    assert qkv.rate == pytest.approx(2 * 10 * 20 * 30 / 1e-3 / 1e12)
    assert floor.pieces[-1].rate == pytest.approx(1e9 / 500e-6 / 1e12)


def test_every_kind_of_work_of_a_block_has_a_probe() -> None:
    work = block_work(preset("tiny").dit, height=64, width=96, steps=2, precision=Precision.FULL)
    readings = [read_ceilings(dit_probes(work, compute=Compute.on(CPU)), device=CPU, pace=SHORT)]
    floor = dit_floor(work, readings)
    assert [piece.name for piece in floor.pieces] == ["qkv", "square", "up", "down", "attention", "traffic"]
    assert all(piece.ms > 0 for piece in floor.pieces)


def probe(name: str, *, call) -> Probe:  # type: ignore[no-untyped-def]
    return Probe(name=name, shape="", way="", amount=1.0, call=call)


def ceiling(name: str, *, us: float, way: str = "", amount: float = 1.0) -> Ceiling:
    return Ceiling(name=name, shape="", way=way, amount=amount, us=us)
