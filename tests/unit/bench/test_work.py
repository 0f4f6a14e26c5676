"""The least work of a block, held against the published count and against what the network really calls."""

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from worker.bench.stand_ins import beginning, settings_for, weights_from, window
from worker.bench.work import BlockWork, block_work, forward_flop, network_flop
from worker.pipeline.compute import Compute
from worker.pipeline.config import DiTConfig, preset
from worker.pipeline.dit_share import DiTShare
from worker.pipeline.parallel import RankLayout, SequenceParallel
from worker.pipeline.precision import Precision

RELEASED = preset("14b").dit
USUAL = {"height": 640, "width": 480}


def test_a_forward_of_the_released_network_takes_73_teraflop() -> None:
    assert forward_flop(RELEASED, **USUAL) / 1e12 == pytest.approx(73.2, abs=0.05)


@pytest.mark.parametrize(("steps", "teraflop"), [(2, 218), (4, 364)])
def test_a_block_of_the_released_network_takes_what_was_counted_by_hand(steps: int, teraflop: float) -> None:
    assert network_flop(RELEASED, steps=steps, **USUAL) / 1e12 == pytest.approx(teraflop, abs=0.5)


@pytest.mark.parametrize("steps", [2, 4])
def test_the_floor_leaves_out_the_small_attentions_and_the_ends_and_nothing_else(steps: int) -> None:
    tokens, dim, forwards = 2400, 5120, steps + 1
    text = 4 * tokens * dim * 512 * (40 * forwards - 1)
    audio = 4 * tokens * dim * 5 * (12 * forwards - 1)
    ends = 2 * tokens * dim * 64 * (2 * forwards - 1)
    whole = network_flop(RELEASED, steps=steps, **USUAL)
    assert released_work(steps=steps).flop == pytest.approx(whole - text - audio - ends, rel=1e-9)


def test_the_traffic_of_a_block_is_that_of_one_pass_between_two_products() -> None:
    # 6.24 ms per forward at 4.285 TB/s, as counted by hand; of the last context layer less is done
    assert released_work(steps=2).traffic / 1e9 == pytest.approx(3 * 26.7387 - 0.5259, rel=1e-4)


def test_eight_bits_move_less_and_multiply_as_much() -> None:
    full, fp8, attention = (released_work(steps=2, precision=precision) for precision in Precision)
    assert full.flop == fp8.flop == attention.flop
    assert full.traffic > fp8.traffic > attention.traffic > 0.8 * full.traffic


def test_two_ranks_share_the_work_to_the_half() -> None:
    whole, half = released_work(steps=4), released_work(steps=4, parts=2)
    assert half.flop == whole.flop / 2
    assert half.traffic == whole.traffic / 2
    assert half.attention.keys == whole.attention.keys


def test_the_count_is_what_the_network_calls() -> None:
    config = DiTConfig(
        dim=128,
        ffn_dim=512,
        num_heads=4,
        num_layers=6,
        text_dim=32,
        text_len=64,
        audio_dim=32,
        audio_layers=3,
        audio_inject_layers=(0, 3, 5),
        freq_dim=64,
    )
    size = {"height": 160, "width": 192}
    called = flop_of_a_steady_block(config, **size)
    work = block_work(config, steps=2, precision=Precision.FULL, full_bytes=4, **size)
    # more is called: the ends of the network, attention to few keys, and what a block's sound needs
    assert work.flop < called < 1.04 * work.flop
    # and a layer more or fewer would be seen
    for layers in (5, 7):
        other = replace(config, num_layers=layers, audio_inject_layers=(0, 3, layers - 1))
        wrong = block_work(other, steps=2, precision=Precision.FULL, full_bytes=4, **size)
        assert not wrong.flop < called < 1.04 * wrong.flop


def flop_of_a_steady_block(config: DiTConfig, *, height: int, width: int) -> float:
    compute = Compute.on(torch.device("cpu"))
    share = DiTShare.load(
        config,
        sequence=SequenceParallel(size=1, group=None),
        layout=RankLayout.alone(),
        compute=compute,
        weights=weights_from(None),
    )
    settings = settings_for(config, height=height, width=width, steps=2, blocks=3)
    session = share.begin(settings, beginning(config, height=height, width=width))
    heard = window(config, device=compute.device)
    for block in range(2):
        session.make(block, window=heard)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the fused kernel is not counted
        session.make(2, window=heard)
    return float(counter.get_total_flops())


def released_work(*, steps: int, precision: Precision = Precision.FULL, parts: int = 1) -> BlockWork:
    return block_work(RELEASED, steps=steps, precision=precision, parts=parts, **USUAL)
