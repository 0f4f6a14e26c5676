"""Which layout a machine gets, for its GPUs, its options and its jobs."""

import pytest

from worker.gpus import Gpu
from worker.layout import Goal, ImpossiblePlan, Order, Plan, Replica, plan
from worker.memory_needs import GIB, Demand, Role
from worker.pipeline.precision import MemoryUse, Precision

H200, H100, A100, L40S, RTX5090 = (
    ("NVIDIA H200", 140.4, (9, 0)),
    ("NVIDIA H100 80GB HBM3", 79.6, (9, 0)),
    ("NVIDIA A100-SXM4-40GB", 40.0, (8, 0)),
    ("NVIDIA L40S", 45.0, (8, 9)),
    ("NVIDIA GeForce RTX 5090", 31.8, (12, 0)),
)
Kind = tuple[str, float, tuple[int, int]]


def gpus(*kinds: Kind) -> list[Gpu]:
    return [Gpu(index, name, round(memory * GIB), capability) for index, (name, memory, capability) in enumerate(kinds)]


def planned(
    there: list[Gpu],
    layout: str = "auto",
    *,
    goal: Goal = Goal.THROUGHPUT,
    preset: str = "14b",
    precision: Precision | None = None,
    memory: MemoryUse = MemoryUse.AMPLE,
    places: tuple[int, ...] | None = None,
    picture: tuple[int, int] = (640, 480),
) -> Plan:
    demand = Demand(preset, precision, memory)
    return plan(Order(demand, layout=layout, goal=goal, places=places, picture=picture), there)


def of(*replicas: tuple[int, ...]) -> tuple[Replica, ...]:
    """By the GPU of each rank."""
    return tuple(Replica(len(ranks), ranks) for ranks in replicas)


@pytest.mark.parametrize(
    ("kinds", "goal", "replicas"),
    [
        ([H200], Goal.THROUGHPUT, of((0,))),
        ([H200], Goal.LATENCY, of((0,))),
        ([H200] * 2, Goal.THROUGHPUT, of((0,), (1,))),
        ([H200] * 2, Goal.LATENCY, of((0, 0, 1))),
        ([H200] * 3, Goal.LATENCY, of((0, 1, 2))),  # 3 do not divide 40 heads, so two DiT ranks and a VAE of its own
        ([H200] * 4, Goal.LATENCY, of((0, 0, 1, 2, 3))),
        ([H100] * 5, Goal.LATENCY, of((0, 0, 1, 2, 3, 4))),
        ([H200] * 8, Goal.THROUGHPUT, of(*[(number,) for number in range(8)])),
        ([A100] * 4, Goal.THROUGHPUT, of((0, 1), (2, 3))),  # too small for all, large enough for the DiT alone
        ([A100] * 2, Goal.LATENCY, of((0, 1))),
        ([A100] * 3, Goal.LATENCY, of((0, 1, 2))),
        ([H200, RTX5090], Goal.THROUGHPUT, of((0,))),
    ],
)
def test_auto_goes_by_number_and_memory_of_the_gpus_and_by_the_goal(
    kinds: list[Kind], goal: Goal, replicas: tuple[Replica, ...]
) -> None:
    assert planned(gpus(*kinds), goal=goal).replicas == replicas


def test_what_auto_leaves_unused_is_said() -> None:
    assert planned(gpus(H200, RTX5090)).notes == ("Not used: GPU 1 (NVIDIA GeForce RTX 5090, 32 GiB).",)


@pytest.mark.parametrize(
    ("kind", "precision", "memory", "fits"),
    [
        (A100, None, MemoryUse.AMPLE, False),
        (L40S, None, MemoryUse.AMPLE, False),
        (L40S, Precision.FP8, MemoryUse.AMPLE, True),
        (RTX5090, Precision.FP8, MemoryUse.AMPLE, False),
        (RTX5090, None, MemoryUse.LOW, True),  # low memory means fp8 on a GPU that can
        (A100, None, MemoryUse.LOW, False),  # and this one cannot
        (RTX5090, Precision.FULL, MemoryUse.LOW, False),  # whoever asks for bf16 gets it
    ],
)
def test_everything_on_one_gpu_takes_less_in_fp8_and_least_with_low_memory(
    kind: Kind, precision: Precision | None, memory: MemoryUse, fits: bool
) -> None:
    there = gpus(kind)
    assert Demand("14b", precision, memory).fits([Role.ALL], there[0]) is fits
    if fits:
        assert planned(there, precision=precision, memory=memory).replicas == of((0,))
    else:
        with pytest.raises(ImpossiblePlan):
            planned(there, precision=precision, memory=memory)


def test_a_refusal_for_lack_of_memory_says_which_options_would_fit() -> None:
    with pytest.raises(
        ImpossiblePlan, match=r"GPU 0 \(NVIDIA L40S, 45 GiB\)\. Precision fp8 would fit on one GPU \(\d+ GiB\)"
    ):
        planned(gpus(L40S))
    with pytest.raises(ImpossiblePlan, match=r"Precision fp8 with low memory would fit on one GPU"):
        planned(gpus(RTX5090), "throughput")
    with pytest.raises(ImpossiblePlan, match=r"The least that one GPU takes is .* with fp8 and low memory"):
        planned(gpus(("NVIDIA T4", 15.0, (7, 5))))


@pytest.mark.parametrize(
    ("layout", "kinds", "places", "replicas"),
    [
        ("throughput", [H200] * 2, None, of((0,), (1,))),
        ("throughput", [H200] * 4, (3, 1), of((3,), (1,))),
        ("latency", [H200], None, of((0,))),
        ("latency", [H200] * 2, None, of((0, 1))),
        ("latency", [H200] * 3, None, of((0, 1, 2))),
        ("latency", [H200] * 8, None, of((0, 1, 2, 3, 4, 5))),  # five DiT ranks: 7 and 6 divide nothing
        ("latency-shared", [H200], None, of((0,))),
        ("latency-shared", [H200] * 2, None, of((0, 0, 1))),
        ("latency-shared", [H200] * 2, (1, 0), of((1, 1, 0))),
        ("1x1", [H200] * 2, None, of((0,))),
        ("1x1", [H200] * 2, (1,), of((1,))),
        ("2x2", [H200] * 4, None, of((0, 1), (2, 3))),
        ("2x2", [H200] * 2, (0, 0, 1, 1), of((0, 0), (1, 1))),
        ("1x3", [H200] * 2, (0, 0, 1), of((0, 0, 1))),
        ("2x3", [], None, (Replica(3), Replica(3))),
    ],
)
def test_a_layout_that_is_ordered_by_name_is_made_so(
    layout: str, kinds: list[Kind], places: tuple[int, ...] | None, replicas: tuple[Replica, ...]
) -> None:
    assert planned(gpus(*kinds), layout, places=places).replicas == replicas


@pytest.mark.parametrize(
    ("layout", "kinds", "places", "said"),
    [
        ("throughput", [], None, "none can be seen"),
        ("2x2", [H200] * 3, None, "takes 4 GPUs, one for each rank, and there are 3"),
        ("1x2", [H200] * 4, (0, 1, 2), "takes 2 GPUs, one for each rank, and there are 3"),
        ("1x3", [H200] * 2, (0, 1, 1), "two DiT ranks of one replica cannot share a GPU"),
        ("throughput", [H200] * 2, (0, 2), "there is no GPU 2"),
        ("1x1", [H200], (1,), "there is no GPU 1"),
        ("latency-shared", [L40S] * 2, None, r"GPU 0 \(.*\) is too small: .* the encoders and the VAE and the DiT"),
    ],
)
def test_an_impossible_layout_is_refused_with_the_reason(
    layout: str, kinds: list[Kind], places: tuple[int, ...] | None, said: str
) -> None:
    with pytest.raises(ImpossiblePlan, match=said):
        planned(gpus(*kinds), layout, places=places)


def test_who_names_ranks_and_gpus_is_warned_about_memory_but_obeyed() -> None:
    made = planned(gpus(L40S), "1x1")
    assert made.replicas == of((0,))
    assert len(made.notes) == 1
    assert made.notes[0].startswith("GPU 0 (NVIDIA L40S, 45 GiB) is too small")


def test_who_asks_for_low_memory_and_bf16_is_told_what_that_costs() -> None:
    dear = planned(gpus(H200), precision=Precision.FULL, memory=MemoryUse.LOW)
    assert len(dear.notes) == 1
    assert dear.notes[0].startswith("bf16 was asked for")
    assert planned(gpus(H200), memory=MemoryUse.LOW).notes == ()
    assert planned(gpus(H100), precision=Precision.FULL).notes == ()


def test_ranks_for_one_picture_are_as_many_as_can_cut_it() -> None:
    there = gpus(*[H200] * 4)
    assert planned(there, goal=Goal.LATENCY, picture=(480, 480)).replicas == of((0, 1, 2))  # 60 cells: by 2, not by 4
    assert planned(there, goal=Goal.LATENCY, picture=(720, 1280)).replicas == of((0, 0, 1, 2, 3))


def test_without_gpus_one_rank_renders_on_processors() -> None:
    made = planned([], preset="tiny")
    assert made.replicas == (Replica(1),)
    assert "No GPU" in made.notes[0]


def test_a_small_preset_and_a_gpu_that_tells_no_memory_fit() -> None:
    part = Gpu(0, "a part of a GPU", None, None)
    assert planned([part]).replicas == of((0,))
    assert planned(gpus(("NVIDIA T4", 15.0, (7, 5))), preset="tiny").replicas == of((0,))


def test_a_plan_is_told_in_a_line() -> None:
    assert str(planned(gpus(H200, H200))) == "layout throughput: 1 rank on GPU 0, 1 rank on GPU 1"
    assert str(planned(gpus(H200, H200), goal=Goal.LATENCY)) == "layout latency-shared: 3 ranks on GPUs 0 0 1"
    assert str(planned([], "2x3")) == "layout 2x3: 3 ranks on processors, 3 ranks on processors"
