"""The decoder arranged for a GPU computes what diffusers' does: in plain torch here, and each kernel interpreted."""

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor
from torch.nn import functional

from worker.pipeline.checkpoint import Network, RandomWeights
from worker.pipeline.config import AVATAR, PRESETS, VAEConfig
from worker.pipeline.precision import MemoryUse
from worker.pipeline.vae import VideoAutoencoder
from worker.pipeline.vae_packed.decoder import PackedDecoder, Place
from worker.pipeline.vae_packed.packing import frame_pairs, on_cells, pack_decoder
from worker.pipeline.vae_packed.rows import Rows
from worker.pipeline.vae_packed.stream import PackedStreams
from worker.pipeline.vae_stream import DecodeStream

CPU = torch.device("cpu")
SMALL = VAEConfig(base_dim=4)
OTHER = VAEConfig(base_dim=6, dim_mult=(1, 2, 3), num_res_blocks=1, temporal_downsample=(True, True))
TINY = PRESETS["tiny"].vae


def plain_of(config: VAEConfig, dtype: torch.dtype = torch.float32) -> VideoAutoencoder:
    return VideoAutoencoder(config, device=CPU, dtype=dtype, weights=RandomWeights(1))


def packed_of(plain: VideoAutoencoder, memory: MemoryUse = MemoryUse.AMPLE) -> PackedStreams:
    decoder = PackedDecoder(pack_decoder(plain._network), Rows())
    return PackedStreams(decoder, denormalise=plain.denormalise, device=CPU, memory=memory)


def latents(frames: int, *, height: int = 3, width: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(16, frames, height, width, generator=torch.Generator().manual_seed(seed))


def pixels(stream: DecodeStream, pieces: Iterator[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.cat([stream.decode_pixels(piece) for piece in pieces], dim=1)


@pytest.fixture(scope="module")
def plain() -> VideoAutoencoder:
    return plain_of(SMALL)


@pytest.mark.parametrize("memory", MemoryUse)
@pytest.mark.parametrize(("config", "limit"), [(SMALL, 1e-6), (OTHER, 1e-6), (TINY, 1e-4), (AVATAR.vae, 1e-4)])
def test_blocks_are_those_of_the_plain_stream(config: VAEConfig, limit: float, memory: MemoryUse) -> None:
    """In float64, but diffusers enlarges pictures in float32, and norms of two channels magnify that."""
    plain = plain_of(config, torch.float64)
    pieces = latents(9).split((2, 2, 2, 2, 1), dim=1)
    made = pixels(packed_of(plain, memory).new(), pieces)
    torch.testing.assert_close(made, pixels(plain.decode_stream(), pieces), rtol=0, atol=limit)


@pytest.mark.parametrize("pieces", [[7], [1, 1, 1, 4], [3, 4], [4, 3]])
def test_a_stream_may_be_cut_anywhere(plain: VideoAutoencoder, pieces: list[int]) -> None:
    made = pixels(packed_of(plain).new(), latents(7).split(pieces, dim=1))
    torch.testing.assert_close(made, pixels(plain.decode_stream(), (latents(7),)), rtol=0, atol=1e-5)


def test_the_layers_are_those_of_diffusers_own_network() -> None:
    """The plain stream runs on fast layers of its own; this is the network as published, with blocks in one call."""
    plain = plain_of(SMALL)
    network = AutoencoderKLWan(base_dim=4)
    RandomWeights(1).fill(network, Network.VAE, device=CPU, dtype=torch.float32)
    with torch.no_grad():
        whole = network.eval().decode(plain.denormalise(latents(5))[None]).sample[0]
    torch.testing.assert_close(pixels(packed_of(plain).new(), latents(5).split((1, 2, 2), 1)), whole, rtol=0, atol=1e-5)


def test_the_next_video_begins_anew_in_the_buffers_of_the_last(plain: VideoAutoencoder) -> None:
    streams = packed_of(plain)
    first = streams.new()
    before = pixels(first, latents(4).split(2, dim=1))
    buffers = first._sized
    del first
    second = streams.new()
    assert torch.equal(pixels(second, latents(4).split(2, dim=1)), before)
    assert second._sized is buffers


def test_buffers_of_another_size_and_of_little_memory_are_let_go(plain: VideoAutoencoder) -> None:
    ample, low = packed_of(plain), packed_of(plain, MemoryUse.LOW)
    ample.new().decode(latents(1))
    assert [sized.size for sized in ample._free] == [(3, 5)]
    ample.new().decode(latents(1, height=2))
    assert [sized.size for sized in ample._free] == [(2, 5)]
    low.new().decode(latents(1))
    assert low._free == []


def test_streams_side_by_side_leave_no_trace(plain: VideoAutoencoder) -> None:
    streams = packed_of(plain)
    alone = {seed: streams.new().decode(latents(4, seed=seed)) for seed in (1, 2)}
    first, second = streams.new(), streams.new()
    mixed: dict[int, list[np.ndarray]] = {1: [], 2: []}
    for t in range(0, 4, 2):
        mixed[1].append(first.decode(latents(4, seed=1)[:, t : t + 2]))
        mixed[2].append(second.decode(latents(4, seed=2)[:, t : t + 2]))
    for seed, whole in alone.items():
        assert np.abs(np.concatenate(mixed[seed]).astype(int) - whole).max() <= 1


def test_frames_are_the_bytes_of_the_plain_stream(plain: VideoAutoencoder) -> None:
    packed, reference = packed_of(plain).new(), plain.decode_stream()
    for frames in (2, 2, 1):
        made, wanted = packed.begin(latents(frames)).wait(), reference.begin(latents(frames)).wait()
        assert made.shape == wanted.shape
        assert made.dtype == np.uint8
        assert made.std() > 10
        differs = made.astype(int) - wanted
        assert np.abs(differs).max() <= 1
        assert (differs != 0).mean() < 0.001


def test_latents_of_another_shape_are_refused(plain: VideoAutoencoder) -> None:
    stream = packed_of(plain).new()
    with pytest.raises(ValueError, match="at least one frame"):
        stream.begin(latents(0))
    stream.decode(latents(1))
    with pytest.raises(ValueError, match="3 x 4 cells in a stream of"):
        stream.begin(latents(1, width=4))


def test_half_precision_is_as_near_to_single_as_diffusers_is() -> None:
    """Sums of frames are rounded before they are multiplied; that must not cost more than rounding already does."""
    config = VAEConfig(base_dim=16, num_res_blocks=1)
    half, single = plain_of(config, torch.bfloat16), plain_of(config)
    with torch.no_grad():
        for exact, rounded in zip(single._network.parameters(), half._network.parameters(), strict=True):
            exact.copy_(rounded)
    still = latents(1) + 0.1 * latents(4, seed=1)  # frames hardly differ in a video
    exact = pixels(single.decode_stream(), (still,))
    error = {
        name: ((pixels(stream, still.split(2, dim=1)).float() - exact).norm() / exact.norm()).item()
        for name, stream in (("packed", packed_of(half).new()), ("plain", half.decode_stream()))
    }
    assert error["packed"] < 1.2 * error["plain"]


def test_pairs_of_frames_make_a_causal_convolution() -> None:
    x, weight = torch.randn(2, 4, 5, 6, dtype=torch.float64), torch.randn(3, 2, 3, 3, 3, dtype=torch.float64)
    d0, d1, d2, d3 = x.unbind(1)
    given = (d0 - d2, d1 + d2, d2 - d1, d1 - d3)
    m0, m1, m2, m3 = (
        functional.conv2d(d[None], w, padding=1)[0] for d, w in zip(given, frame_pairs(weight), strict=True)
    )
    wanted = functional.conv3d(x[None], weight, padding=(0, 1, 1))[0]
    torch.testing.assert_close(torch.stack((m0 + m1 + m2, m1 - m2 - m3), dim=1), wanted)


def test_a_convolution_of_cells_is_one_of_the_enlarged_picture() -> None:
    x, weight = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(3, 2, 3, 3, dtype=torch.float64)
    large = functional.conv2d(x.repeat_interleave(2, 1).repeat_interleave(2, 2)[None], weight, padding=1)[0]
    cells = functional.conv2d(x[None], on_cells(weight), padding=1)[0].view(2, 2, 3, 4, 6)
    for a in (0, 1):
        for b in (0, 1):
            torch.testing.assert_close(cells[a, b, :, a : a + 3, b : b + 5], large[:, a::2, b::2])


def test_a_first_frame_is_not_doubled_in_time(plain: VideoAutoencoder) -> None:
    decoder = PackedDecoder(pack_decoder(plain._network), Rows())
    z = plain.denormalise(latents(1)).permute(1, 2, 3, 0)
    first, later = (
        decoder.planes(z, decoder.new_caches(3, 5), place=place).shape[1] for place in (Place.FIRST, Place.LATER)
    )
    assert (first, later) == (2 + 1, 2 + 4)


def test_kernels_compute_what_plain_torch_computes() -> None:
    pytest.importorskip("triton", reason="Triton is not installed: `run.py test` brings it")
    run = subprocess.run(
        [sys.executable, "-m", "tests.unit.pipeline.interpreted_vae_rows"],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    assert "48 cases held" in run.stdout
