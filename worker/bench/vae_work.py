"""What decoding one block costs at the least: the decoder's convolutions, as the network itself calls them.

Knows the sizes of the VAE and nothing of devices. The released decoder runs on PyTorch's meta device, without numbers,
and says the shape of every convolution of a running stream. Counted is each as one 2D convolution whose input holds the
frames that it sees side by side as channels. Left out are norms, SiLU, padding, upsampling and the attention in the
middle, so a decoder that folds upsampling into its convolutions can come below.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import nn

from worker.bench.ceilings import Probe, fastest
from worker.bench.figures import Floor
from worker.bench.floor import Readings, piece, whole
from worker.pipeline.config import PIXELS_PER_LATENT, VAEConfig


@dataclass(frozen=True)
class Convolution:
    """Of all frames of a block at once, with as many zeros around them as keep the size."""

    frames: int
    channels_in: int
    """Of all frames that one output frame sees."""
    channels_out: int
    kernel: tuple[int, int]
    height: int
    width: int

    @property
    def flop(self) -> float:
        """Of one call."""
        kernel_height, kernel_width = self.kernel
        weights = self.channels_in * self.channels_out * kernel_height * kernel_width
        return 2.0 * weights * self.frames * self.height * self.width

    @property
    def name(self) -> str:
        """Unlike that of any other."""
        kernel = "×".join(map(str, self.kernel))
        return f"{self.channels_in}→{self.channels_out} {kernel} {self.frames}×{self.height}×{self.width}"


def decoder_convolutions(config: VAEConfig, *, height: int, width: int, latent_frames: int) -> Counter[Convolution]:
    """How often each convolution is needed for a block of so many latent frames of a running stream."""
    with torch.device("meta"):
        network = AutoencoderKLWan(
            base_dim=config.base_dim,
            z_dim=config.z_dim,
            dim_mult=list(config.dim_mult),
            num_res_blocks=config.num_res_blocks,
            temperal_downsample=list(config.temporal_downsample),
        )
        latent = torch.empty(1, config.z_dim, 1, height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT)
    seen: Counter[Convolution] = Counter()
    caches: list[object] = [None] * network._cached_conv_counts["decoder"]
    with torch.no_grad():
        # the first latent frame of a stream becomes one frame, every other becomes four
        network.decoder(latent, feat_cache=caches, feat_idx=[0], first_chunk=True)
        hooks = [
            layer.register_forward_hook(_counting(seen, latent_frames)) for layer in _convolutions(network.decoder)
        ]
        network.decoder(latent, feat_cache=caches, feat_idx=[0], first_chunk=False)
    for hook in hooks:
        hook.remove()
    return seen


def vae_probes(convolutions: Counter[Convolution], *, device: torch.device, dtype: torch.dtype) -> Iterator[Probe]:
    """A call of each, the one with most operations first, channels last in memory."""
    for convolution in sorted(convolutions, key=lambda one: -one.flop):
        yield _probe(convolution, device=device, dtype=dtype)


def vae_floor(convolutions: Counter[Convolution], readings: Readings) -> Floor:
    """Of one block."""
    return whole([piece(fastest(one.name, readings), calls=calls) for one, calls in convolutions.items()])


def _probe(convolution: Convolution, *, device: torch.device, dtype: torch.dtype) -> Probe:
    shape = (convolution.frames, convolution.channels_in, convolution.height, convolution.width)
    x = torch.randn(shape, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    kernel = (convolution.channels_out, convolution.channels_in, *convolution.kernel)
    weight = (torch.randn(kernel, device=device, dtype=dtype) * 0.02).to(memory_format=torch.channels_last)
    padding = tuple(side // 2 for side in convolution.kernel)
    return Probe(
        name=convolution.name,
        shape=convolution.name,
        way=f"{str(dtype).removeprefix('torch.')} conv2d",
        amount=convolution.flop,
        call=lambda _: nn.functional.conv2d(x, weight, padding=padding),
    )


def _convolutions(module: nn.Module) -> list[nn.Conv2d | nn.Conv3d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Conv3d)]


def _counting(
    seen: Counter[Convolution], latent_frames: int
) -> Callable[[nn.Conv2d | nn.Conv3d, object, torch.Tensor], None]:
    def count(layer: nn.Conv2d | nn.Conv3d, _: object, made: torch.Tensor) -> None:
        *before, kernel_height, kernel_width = layer.kernel_size
        frames = made.shape[2] if isinstance(layer, nn.Conv3d) else made.shape[0]
        seen[
            Convolution(
                frames=frames * latent_frames,
                channels_in=layer.in_channels * (before[0] if before else 1),
                channels_out=layer.out_channels,
                kernel=(kernel_height, kernel_width),
                height=made.shape[-2],
                width=made.shape[-1],
            )
        ] += 1

    return count
