"""Decoding as a stream: the same as all at once, whatever the pieces, and apart from every other stream."""

import dataclasses

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d, WanRMS_norm
from torch import Tensor

from worker.pipeline.checkpoint import Network, RandomWeights
from worker.pipeline.config import PRESETS, VAEConfig
from worker.pipeline.vae import VideoAutoencoder, to_uint8
from worker.pipeline.vae_layers import ChannelNorm, FramewiseCausalConv

CPU = torch.device("cpu")
SMALL = VAEConfig(base_dim=4)


@pytest.fixture(scope="module")
def autoencoder() -> VideoAutoencoder:
    return VideoAutoencoder(SMALL, device=CPU, dtype=torch.float32, weights=RandomWeights(1))


@pytest.fixture(scope="module")
def plain() -> AutoencoderKLWan:
    """diffusers' own network with its own layers and the same weights."""
    network = AutoencoderKLWan(base_dim=SMALL.base_dim)
    RandomWeights(1).fill(network, Network.VAE, device=CPU, dtype=torch.float32)
    return network.eval()


def latents(frames: int, *, seed: int = 0) -> Tensor:
    return torch.randn(16, frames, 4, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pieces", [[1, 1, 1, 1, 1, 1, 1], [2, 2, 2, 1], [5, 2], [1, 6]])
def test_a_stream_in_pieces_is_bit_equal_to_one_call(autoencoder: VideoAutoencoder, pieces: list[int]) -> None:
    stream = autoencoder.decode_stream()
    streamed = torch.cat([stream.decode_pixels(piece) for piece in latents(7).split(pieces, dim=1)], dim=1)
    assert torch.equal(streamed, autoencoder.decode_stream().decode_pixels(latents(7)))


def test_a_stream_is_bit_equal_to_the_public_decode_of_the_library(autoencoder: VideoAutoencoder) -> None:
    """Guards the private names that the stream uses, on the very network it drives."""
    z = autoencoder.denormalise(latents(5))
    with torch.no_grad():
        whole = autoencoder._network.decode(z[None]).sample[0]
    assert torch.equal(autoencoder.decode_stream().decode_pixels(latents(5)), whole)


def test_fast_layers_are_in_use_and_compute_what_the_library_computes(
    autoencoder: VideoAutoencoder, plain: AutoencoderKLWan
) -> None:
    layers = list(autoencoder._network.modules())
    assert not any(type(layer) is WanRMS_norm for layer in layers)
    assert all(layer.stride[0] == 2 for layer in layers if type(layer) is WanCausalConv3d)
    assert sum(isinstance(layer, FramewiseCausalConv | ChannelNorm) for layer in layers) > 50
    video = torch.rand(3, 9, 32, 48, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        mean = plain.encode(video[None]).latent_dist.mode()[0]
        frames = plain.decode(autoencoder.denormalise(latents(4))[None]).sample[0]
    mu = torch.tensor(SMALL.latents_mean)[:, None, None, None]
    sigma = torch.tensor(SMALL.latents_std)[:, None, None, None]
    torch.testing.assert_close(autoencoder.encode_video(video), (mean - mu) / sigma, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(autoencoder.decode_stream().decode_pixels(latents(4)), frames, rtol=1e-5, atol=1e-5)


def test_the_first_latent_frame_gives_one_frame_and_every_other_four(autoencoder: VideoAutoencoder) -> None:
    stream = autoencoder.decode_stream()
    assert [len(stream.decode(latents(n))) for n in (2, 2, 1, 3)] == [5, 8, 4, 12]


def test_streams_side_by_side_and_pictures_between_leave_no_trace(autoencoder: VideoAutoencoder) -> None:
    alone = {seed: autoencoder.decode_stream().decode(latents(4, seed=seed)) for seed in (1, 2)}
    first, second = autoencoder.decode_stream(), autoencoder.decode_stream()
    mixed: dict[int, list[np.ndarray]] = {1: [], 2: []}
    for piece_1, piece_2 in zip(latents(4, seed=1).split(1, 1), latents(4, seed=2).split(1, 1), strict=True):
        mixed[1].append(first.decode(piece_1))
        autoencoder.encode_image(np.zeros((32, 48, 3), dtype=np.uint8))
        mixed[2].append(second.decode(piece_2))
    for seed, whole in alone.items():
        assert np.array_equal(np.concatenate(mixed[seed]), whole)


def test_pixels_become_bytes_by_truncation() -> None:
    values = torch.tensor([-2.0, -1.0, -0.9999, 0.0, 0.9999, 1.0, 3.0])
    pixels = values.expand(3, 1, 1, -1).clone()
    assert to_uint8(pixels)[0, 0, :, 0].tolist() == [0, 0, 0, 127, 254, 255, 255]


def test_a_picture_becomes_one_latent_frame_of_the_same_numbers_as_its_video(autoencoder: VideoAutoencoder) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[:, None].float() / 255 * 2 - 1
    encoded = autoencoder.encode_image(image)
    assert encoded.shape == (16, 1, 4, 6)
    assert torch.equal(encoded, autoencoder.encode_video(pixels))


def test_shapes_that_cannot_be_coded_are_refused(autoencoder: VideoAutoencoder) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        autoencoder.encode_image(np.zeros((30, 48, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match="4k \\+ 1"):
        autoencoder.encode_video(torch.zeros(3, 4, 32, 48))
    with pytest.raises(ValueError, match="at least one frame"):
        autoencoder.decode_stream().decode(torch.zeros(16, 0, 4, 6))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_drawn_weights_of_the_tiny_preset_give_frames_that_are_neither_gray_nor_clipped(seed: int) -> None:
    tiny = VideoAutoencoder(PRESETS["tiny"].vae, device=CPU, dtype=torch.float32, weights=RandomWeights(seed))
    frames = tiny.decode_stream().decode(torch.randn(16, 3, 8, 6, generator=torch.Generator().manual_seed(seed)))
    assert frames.std() > 10
    assert ((frames == 0) | (frames == 255)).mean() < 0.02
    assert np.abs(np.diff(frames.astype(int), axis=0)).mean() > 1


def test_half_precision_stays_near_single_precision() -> None:
    half, single = (
        VideoAutoencoder(
            dataclasses.replace(SMALL, num_res_blocks=1), device=CPU, dtype=dtype, weights=RandomWeights(3)
        )
        .decode_stream()
        .decode_pixels(latents(2))
        .float()
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert (half - single).norm() / single.norm() < 0.05
