"""Which rows of sound each block hears, and how many blocks there are."""

import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from worker.pipeline.checkpoint import Network, RandomWeights
from worker.pipeline.conditioning import audio_windows, block_count, decoded_frames
from worker.pipeline.config import preset
from worker.pipeline.dit.audio_net import CausalAudioEncoder
from worker.pipeline.errors import InvalidRender

CONFIG = preset("tiny").dit


def numbered(rows: int) -> Tensor:
    """Rows that hold their own number."""
    return torch.arange(rows, dtype=torch.float32).expand(CONFIG.audio_layers, CONFIG.audio_dim, rows)


def heard(rows: list[Tensor], blocks: int) -> list[list[int]]:
    windows = audio_windows(rows, CONFIG)
    return [next(windows)[0, 0].int().tolist() for _ in range(blocks)]


@pytest.mark.parametrize(("frames", "blocks"), [(1, 1), (5, 1), (6, 2), (13, 2), (14, 3), (16, 3), (57_600, 7201)])
def test_blocks_cover_the_frames_and_no_more(frames: int, blocks: int) -> None:
    assert block_count(CONFIG, frames) == blocks
    made = [decoded_frames(CONFIG, block) for block in range(blocks)]
    assert sum(made[:-1]) < frames <= sum(made)


def test_a_pixel_frame_lies_on_its_own_row() -> None:
    """The last pixel frame of latent m is 4m, and the last row that latent m hears is 4m too."""
    first, second = heard([numbered(40)], 2)
    assert first == [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]
    assert second == [*range(13)]


def test_behind_the_end_the_last_row_goes_on() -> None:
    assert heard([numbered(7)], 3)[1:] == [[0, 1, 2, 3, 4, 5, 6, 6, 6, 6, 6, 6, 6], [6] * 13]


@pytest.mark.parametrize("piece", [1, 3, 8, 13, 40])
def test_the_size_of_the_pieces_does_not_matter(piece: int) -> None:
    rows = numbered(40)
    assert heard(list(rows.split(piece, dim=-1)), 5) == heard([rows], 5)


def test_block_by_block_the_audio_encoder_makes_what_it_makes_of_the_whole() -> None:
    with torch.device("meta"):
        network = CausalAudioEncoder(CONFIG)
    RandomWeights(0).fill(network, Network.DIT, device=torch.device("cpu"), dtype=torch.float64)
    drawn = torch.Generator().manual_seed(2)
    rows = torch.randn(CONFIG.audio_layers, CONFIG.audio_dim, 64, generator=drawn).double()
    whole = network(torch.cat((rows[..., :1].expand(-1, -1, 5), rows), dim=-1))
    windows = audio_windows(rows.split(7, dim=-1), CONFIG, lead=0)
    parts = [network(next(windows)) for _ in range(8)]
    torch.testing.assert_close(torch.cat([p.whole for p in parts]), whole.whole, rtol=0, atol=1e-13)
    torch.testing.assert_close(torch.cat([p.local for p in parts]), whole.local, rtol=0, atol=1e-13)


def test_rows_are_let_go_behind_the_blocks() -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()

    def rows() -> Iterator[Tensor]:
        for _ in range(500):
            piece = torch.zeros(CONFIG.audio_layers, CONFIG.audio_dim, 16)
            alive.add(piece)
            yield piece

    windows = audio_windows(rows(), CONFIG)
    most = 0
    for _ in range(900):
        assert next(windows).untyped_storage().nbytes() <= 13 * CONFIG.audio_layers * CONFIG.audio_dim * 4
        most = max(most, len(alive))
    assert most <= 3


def test_a_sound_without_rows_is_refused() -> None:
    with pytest.raises(InvalidRender, match="no rows"):
        next(audio_windows([numbered(0)], CONFIG))


def test_a_window_of_another_length_is_refused() -> None:
    network = CausalAudioEncoder(CONFIG)
    with pytest.raises(ValueError, match="12 rows"):
        network(numbered(12))
