from dataclasses import replace

import torch

from worker.pipeline.config import AVATAR
from worker.pipeline.dit.dit import DiT
from worker.pipeline.text_encoder import TextEmbedding
from worker.training.faces import MOUTH_BOX, Frame
from worker.training.forcing import Forcing
from worker.training.plan import TINY
from worker.training.pool import Pool

FRAME = Frame(64, 64)
CLIPS, BLOCKS = 2, 4


def _forcing() -> Forcing:
    config = replace(AVATAR.dit, dim=64, num_heads=2, num_layers=1, audio_inject_layers=(0,))
    shape = (CLIPS, BLOCKS, 16, 2, 8, 8)
    pool = Pool(FRAME, torch.zeros(shape), torch.zeros(CLIPS, 16, 8, 8), torch.zeros(CLIPS, BLOCKS, 4, 128, 13))
    prompt = TextEmbedding(torch.zeros(64, config.text_dim), length=1)
    return Forcing(DiT(config), [pool], [prompt], replace(TINY, pool_blocks=BLOCKS), batch=CLIPS, seed=0)


def _cells() -> tuple[slice, slice]:
    """Rows and columns of latent cells that lie within the box of the mouth as a whole."""
    left, top, right, bottom = FRAME.box(MOUTH_BOX)
    return slice(-(-top // 8), bottom // 8), slice(-(-left // 8), right // 8)


def test_a_mouths_error_counts_more_than_the_same_elsewhere() -> None:
    forcing, (rows, columns) = _forcing(), _cells()
    in_mouth, elsewhere = torch.zeros(2, 8, 8)
    in_mouth[rows.start, columns.start], elsewhere[0, 0] = 1, 1
    assert torch.isclose(forcing.weighted(0, in_mouth), 12 * forcing.weighted(0, elsewhere))
    assert torch.isclose(forcing.weighted(0, torch.ones(8, 8)), torch.tensor(1.0))


def test_a_mouth_follows_when_it_moves_as_the_true_one_whatever_the_rest_does() -> None:
    torch.manual_seed(0)
    forcing, (rows, columns) = _forcing(), _cells()
    clean, everywhere = torch.randn(CLIPS, BLOCKS, 16, 2, 8, 8), torch.ones(CLIPS, BLOCKS)
    other = torch.randn_like(clean)
    only_mouth = other.clone()
    near = slice(rows.start - 1, rows.stop + 1), slice(columns.start - 1, columns.stop + 1)  # what the box touches
    only_mouth[..., near[0], near[1]] = clean[..., near[0], near[1]]
    still = clean.mean(dim=(1, 3), keepdim=True).expand_as(clean)

    def follows(made: torch.Tensor, share: torch.Tensor = everywhere) -> float:
        return float(forcing.follows(0, made, clean, share_Bn=share))

    assert follows(clean) > 0.999
    assert follows(only_mouth) > 0.999
    assert abs(follows(other)) < 0.1
    assert follows(still) == 0
    half = everywhere.clone()
    half[0] = 0
    mixed = torch.cat((other[:1], clean[1:]))
    assert follows(mixed, half) > 0.999 > follows(mixed)
