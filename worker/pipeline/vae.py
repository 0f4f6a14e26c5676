"""The video autoencoder: a picture to a latent frame, latent frames to pixel frames (specification, sections 11, 12).

Knows pixels and latents. The network is diffusers' `AutoencoderKLWan`; its public `decode` forgets its convolution
caches at every call, so a `PlainStream` drives the decoder itself and keeps the caches from call to call. That relies
on names diffusers does not promise, hence its pinned version and a test that a stream equals one whole decode. That is
the reference; on a GPU the decoder's weights are arranged anew (`vae_packed`) and diffusers' own let go.

Shapes: c latent channels, T latent frames, n pixel frames, h x w latent cells, H = 8h, W = 8w.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from numpy.typing import NDArray
from torch import Tensor

from worker.pipeline.checkpoint import Network, WeightSource
from worker.pipeline.config import FRAMES_PER_LATENT, PIXELS_PER_LATENT, VAEConfig
from worker.pipeline.graph_pool import GraphPool
from worker.pipeline.precision import MemoryUse
from worker.pipeline.vae_layers import use_fast_layers
from worker.pipeline.vae_packed.decoder import PackedDecoder
from worker.pipeline.vae_packed.packing import pack_decoder
from worker.pipeline.vae_packed.stream import PackedStreams
from worker.pipeline.vae_stream import DecodeStream, FramesOnTheWay, FramesThere, check_latents


class VideoAutoencoder:
    """Encoder and decoder on one device. Streams are independent of each other and of encoding."""

    def __init__(
        self,
        config: VAEConfig,
        *,
        device: torch.device,
        dtype: torch.dtype,
        weights: WeightSource,
        memory: MemoryUse = MemoryUse.AMPLE,
        graph_pool: GraphPool | None = None,
    ) -> None:
        """On a GPU, blocks are CUDA graphs in `graph_pool`, which may be shared with graphs that run at other times."""
        with torch.device("meta"):
            network = AutoencoderKLWan(
                base_dim=config.base_dim,
                z_dim=config.z_dim,
                dim_mult=list(config.dim_mult),
                num_res_blocks=config.num_res_blocks,
                temperal_downsample=list(config.temporal_downsample),
            )
        weights.fill(network, Network.VAE, device=device, dtype=dtype)
        if device.type == "cpu":
            use_fast_layers(network)
        self._network = network.eval()
        self._device = device
        self._dtype = dtype
        exact = torch.float64 if dtype is torch.float64 else torch.float32
        self._mean_c = torch.tensor(config.latents_mean, device=device, dtype=exact)
        self._std_c = torch.tensor(config.latents_std, device=device, dtype=exact)
        self._packed = self._pack(memory, graph_pool) if device.type == "cuda" else None

    def encode_image(self, image: NDArray[np.uint8]) -> Tensor:
        """Normalised latents [c, 1, h, w] of a picture, uint8 [H, W, 3]. Sides must be multiples of 8."""
        pixels_3HW = torch.from_numpy(np.ascontiguousarray(image)).to(self._device).permute(2, 0, 1)
        exact = pixels_3HW.to(self._mean_c.dtype) / 255 * 2 - 1
        return self.encode_video(exact[:, None])

    @torch.no_grad()
    def encode_video(self, pixels_3nHW: Tensor) -> Tensor:
        """Normalised latents [c, 1 + (n - 1) / 4, h, w] of frames in -1 .. 1: the mean of the posterior."""
        _, n, height, width = pixels_3nHW.shape
        if height % PIXELS_PER_LATENT or width % PIXELS_PER_LATENT or n % FRAMES_PER_LATENT != 1:
            raise ValueError(f"{n} frames of {width} x {height}: frames must be 4k + 1 and sides multiples of 8")
        posterior = self._network.encode(pixels_3nHW[None].to(self._dtype)).latent_dist
        mean_cThw: Tensor = posterior.mode()[0].to(self._mean_c.dtype)
        return ((mean_cThw - _each(self._mean_c)) / _each(self._std_c)).to(self._dtype)

    def decode_stream(self) -> DecodeStream:
        """A new video, which begins with its first latent frame."""
        return PlainStream(self) if self._packed is None else self._packed.new()

    def denormalise(self, latents_cThw: Tensor) -> Tensor:
        """Latents as the decoder takes them. In float32 at least, unlike the released code (quirk 11)."""
        exact = latents_cThw.to(self._device, self._mean_c.dtype)
        return (exact * _each(self._std_c) + _each(self._mean_c)).to(self._dtype)

    def _pack(self, memory: MemoryUse, graph_pool: GraphPool | None) -> PackedStreams:
        from worker.pipeline.vae_packed.triton_rows import TritonRows  # Triton is there where there is a GPU

        decoder = PackedDecoder(pack_decoder(self._network), TritonRows())
        self._network.decoder = self._network.post_quant_conv = None
        return PackedStreams(
            decoder, denormalise=self.denormalise, device=self._device, memory=memory, graph_pool=graph_pool
        )


class PlainStream:
    """A `DecodeStream` that computes what diffusers computes, at once and one latent frame after the other."""

    def __init__(self, autoencoder: VideoAutoencoder) -> None:
        self._autoencoder = autoencoder
        self._network = autoencoder._network
        # the decoder's own convention: one slot per causal convolution, filled and read by the layers in their order
        self._caches: list[object] = [None] * self._network._cached_conv_counts["decoder"]
        self._started = False

    def begin(self, latents_cThw: Tensor) -> FramesOnTheWay:
        """As `DecodeStream.begin`."""
        return FramesThere(to_uint8(self.decode_pixels(latents_cThw)).cpu().numpy())

    def decode(self, latents_cThw: Tensor) -> NDArray[np.uint8]:
        """As `DecodeStream.decode`."""
        return self.begin(latents_cThw).wait()

    @torch.no_grad()
    def decode_pixels(self, latents_cThw: Tensor) -> Tensor:
        """As `DecodeStream.decode_pixels`."""
        check_latents(latents_cThw)
        network = self._network
        x_1cThw = network.post_quant_conv(self._autoencoder.denormalise(latents_cThw)[None])
        made = []
        for frame_1c1hw in x_1cThw.split(1, dim=2):
            made.append(
                network.decoder(frame_1c1hw, feat_cache=self._caches, feat_idx=[0], first_chunk=not self._started)
            )
            self._started = True
        return torch.cat(made, dim=2)[0].clamp_(-1.0, 1.0)


def to_uint8(pixels_3nHW: Tensor) -> Tensor:
    """Pixels in -1 .. 1 as uint8 [n, H, W, 3]; truncated, not rounded (section 12)."""
    scaled = ((pixels_3nHW + 1) / 2).clamp(0, 1) * 255
    return scaled.to(torch.uint8).permute(1, 2, 3, 0).contiguous()


def _each(values_c: Tensor) -> Tensor:
    """One value per channel, to be used on [c, T, h, w]."""
    return values_c[:, None, None, None]
