"""Who holds what, and how a picture is cut."""

from datetime import timedelta

import pytest
import torch
from torch import nn

from worker.pipeline.checkpoint import Network
from worker.pipeline.compute import Compute
from worker.pipeline.config import preset
from worker.pipeline.errors import ImpossibleLayout
from worker.pipeline.parallel import RankLayout, Strip, assemble, cut
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.rank_counts import possible_world_sizes

BIG, TINY = preset("14b").dit, preset("tiny").dit


def test_alone_a_rank_holds_everything() -> None:
    layout = RankLayout.alone()
    assert (layout.holds_encoders, layout.holds_dit, layout.dit_size, layout.dit_rank) == (True, True, 1, 0)


def test_in_a_group_rank_0_encodes_and_the_others_denoise() -> None:
    layouts = [RankLayout(rank=rank, world_size=3, timeout=timedelta(seconds=1)) for rank in range(3)]
    assert [layout.holds_encoders for layout in layouts] == [True, False, False]
    assert [layout.holds_dit for layout in layouts] == [False, True, True]
    assert [layout.dit_rank for layout in layouts[1:]] == [0, 1]
    assert {layout.dit_size for layout in layouts} == {2}


def test_the_shorter_side_is_cut_and_columns_of_a_square() -> None:
    wide, tall, square = (cut(BIG, height=h, width=w, parts=2) for h, w in ((480, 640), (640, 480), (512, 512)))
    assert wide[1] == Strip(top=30, left=0, height=30, width=80)
    assert tall[1] == Strip(top=0, left=30, height=80, width=30)
    assert square[1] == Strip(top=0, left=32, height=64, width=32)


def test_the_longer_side_is_cut_where_the_shorter_one_does_not_divide() -> None:
    assert cut(BIG, height=480, width=640, parts=4)[3] == Strip(top=0, left=60, height=60, width=20)


def test_an_impossible_cut_names_the_possible_numbers_of_ranks() -> None:
    assert possible_world_sizes(BIG, height=480, width=640) == (1, 2, 3, 5, 6, 9, 11, 21, 41)
    assert possible_world_sizes(BIG, height=512, width=512) == (1, 2, 3, 5, 9)
    for parts in (3, 5, 16):
        with pytest.raises(ImpossibleLayout, match=rf"into {parts} equal parts; .*: 1, 2, 3, 5, 9$") as refused:
            cut(BIG, height=512, width=512, parts=parts)
        assert refused.value.possible_world_sizes == (1, 2, 3, 5, 9)


def test_strips_put_together_are_the_picture() -> None:
    latents = torch.arange(2 * 60 * 80).view(2, 60, 80)
    for height, width, parts in ((480, 640, 2), (480, 640, 4), (640, 480, 5)):
        whole = latents.view(2, height // 8, width // 8)
        strips = cut(BIG, height=height, width=width, parts=parts)
        assert torch.equal(assemble(strips, [strip.of(whole) for strip in strips]), whole)


def test_tokens_of_a_strip_know_their_place_in_the_picture() -> None:
    grids = [strip.grid(BIG) for strip in cut(BIG, height=480, width=640, parts=2)]
    assert [(grid.rows, grid.columns) for grid in grids] == [
        (range(15), range(40)),
        (range(15, 30), range(40)),
    ]


def test_a_layout_that_never_works_is_refused_before_anything_is_loaded() -> None:
    class NoWeights:
        def fill(self, module: nn.Module, network: Network, **_: object) -> None:
            raise AssertionError("weights were asked for")

        def tokenizer_directory(self) -> None:
            raise AssertionError("weights were asked for")

    with pytest.raises(ImpossibleLayout, match="do not divide by 3 DiT ranks; possible numbers of ranks: 1, 2, 3"):
        Pipeline.create(
            preset("tiny"),
            layout=RankLayout(rank=0, world_size=4),
            compute=Compute.on(torch.device("cpu")),
            weights=NoWeights(),
        )


@pytest.mark.parametrize(("rank", "size"), [(-1, 2), (2, 2)])
def test_a_rank_outside_its_world_is_refused(rank: int, size: int) -> None:
    with pytest.raises(ValueError, match="world of 2"):
        RankLayout(rank=rank, world_size=size)
