"""Options that cannot be followed are refused in a sentence, before any process is started."""

import pytest

from worker.bench.__main__ import main
from worker.bench.figures import Part
from worker.bench.plan import Device, Plan, UnusableOptions
from worker.pipeline.precision import MemoryUse


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--preset", "7b"), "there is no preset 7b; there are avatar, tiny, 14b"),
        (("--size", "480"), "--size takes WIDTHxHEIGHT"),
        (("--size", "480x641"), "multiples of 16"),
        (("--steps", "3"), "steps are 2 or 4"),
        (("--steps", "two"), "--steps takes numbers"),
        (("--precision", "int4"), "--precision takes float32, bf16, fp8, fp8-attention, not int4"),
        (("--precision", "float32"), "float32 can only be compared with"),
        (("--what", "all,audio"), "--what takes all, dit, vae, render, not audio"),
        (("--ranks", "4"), "possible numbers of ranks: 1, 2, 3"),
        (("--ranks", "3", "--gpus", "0,1"), "3 ranks need as many GPUs named"),
        (("--replicas", "2", "--gpus", "0"), "2 ranks need as many GPUs named"),
        (("--compare", "--precision", "bf16"), "a comparison takes two precisions or more"),
        (("--compare", "--image", __file__), "a sound and a portrait go together"),
    ],
)
def test_options_that_cannot_be_followed_are_a_sentence(
    options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--device", "cpu", "--preset", "tiny", *options]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert told.out == ""


def test_help_tells_of_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    for option in ("--what", "--preset", "--precision", "--steps", "--ranks", "--compare", "--json", "--weights"):
        assert option in told


def test_every_rank_of_every_replica_has_a_gpu_of_its_own() -> None:
    both = plan(ranks=(2,), replicas=2)
    assert both.devices(2) == ("cuda:0", "cuda:1")
    assert both.devices(2, replica=1) == ("cuda:2", "cuda:3")


def test_dit_ranks_alone_take_the_first_gpus_or_those_that_were_named() -> None:
    assert plan(ranks=(3,)).dit_devices(3) == ("cuda:0", "cuda:1")
    shared = plan(ranks=(3,), gpus=(0, 0, 1))
    assert shared.devices(3) == ("cuda:0", "cuda:0", "cuda:1")
    assert shared.dit_devices(3) == ("cuda:0", "cuda:1")


def test_a_plan_without_a_block_is_refused() -> None:
    with pytest.raises(UnusableOptions, match="at least one block"):
        plan(blocks=0)


def plan(*, ranks: tuple[int, ...] = (1,), replicas: int = 1, gpus: tuple[int, ...] = (), blocks: int = 1) -> Plan:
    return Plan(
        preset="14b",
        device=Device.CUDA,
        parts=(Part.RENDER,),
        precisions=("bf16",),
        compare=(),
        steps=(2,),
        ranks=ranks,
        replicas=replicas,
        gpus=gpus,
        width=480,
        height=640,
        blocks=blocks,
        compared_blocks=1,
        memory=MemoryUse.AMPLE,
        weights=None,
        audio=None,
        image=None,
        threads=None,
    )
