"""The VAE's convolutions and norm as they are fast on a processor: the same numbers to rounding as diffusers' own.

Knows single layers only. PyTorch's 3D convolution of few channels falls back on the CPU to a path that is
five times slower than all the rest of the decoder, and its vector norm over a middle axis is slow as well. Here a
causal convolution is a 2D convolution per output frame, whose input is a view of the frames it sees laid side by side
as channels. Frame by frame also means that a result does not depend on how many frames come in one call.

Shapes: C channels in, K out; T frames; kt frames of the kernel. Batch is 1.
"""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, WanRMS_norm
from torch import Tensor, nn
from torch.nn import functional


class FramewiseCausalConv(WanCausalConv3d):
    """A `WanCausalConv3d` without time stride, with its parameters and its arguments."""

    @classmethod
    def of(cls, conv: WanCausalConv3d) -> FramewiseCausalConv:
        """Takes the parameters of `conv` over."""
        own = cls.__new__(cls)
        own.__dict__.update(conv.__dict__)
        return own

    def forward(self, x_1CTHW: Tensor, cache_x: Tensor | None = None) -> Tensor:
        """[1, K, T, H, W]; `cache_x` [1, C, at most kt - 1, H, W] are the frames before, in want of more zeros."""
        kernel_frames = self.kernel_size[0]
        frames_TCHW = x_1CTHW[0].transpose(0, 1)
        before = [] if cache_x is None or kernel_frames == 1 else [cache_x[0].transpose(0, 1)]
        missing = kernel_frames - 1 - sum(len(frames) for frames in before)
        zeros = [frames_TCHW.new_zeros(missing, *frames_TCHW.shape[1:])] if missing else []
        seen_TCHW = torch.cat((*zeros, *before, frames_TCHW))
        weight_KCHW = self.weight.transpose(1, 2).flatten(1, 2)  # channels of the earliest frame first
        pad_width, _, pad_height, *_ = self._padding  # as diffusers keeps it for `pad`: the last axis first
        made = [
            functional.conv2d(
                seen_TCHW[t : t + kernel_frames].flatten(0, 1)[None],
                weight_KCHW,
                self.bias,
                stride=self.stride[1:],
                padding=(int(pad_height), int(pad_width)),
            )
            for t in range(len(frames_TCHW))
        ]
        return torch.cat(made).transpose(0, 1)[None]


class ChannelNorm(WanRMS_norm):
    """A `WanRMS_norm` over the channels, `x / max(||x||, 1e-12) * sqrt(C) * gamma`, with its parameters."""

    @classmethod
    def of(cls, norm: WanRMS_norm) -> ChannelNorm:
        """Takes the parameters of `norm` over."""
        own = cls.__new__(cls)
        own.__dict__.update(norm.__dict__)
        return own

    def forward(self, x: Tensor) -> Tensor:
        """[1, C, T, H, W] or [T, C, H, W] to the same shape and dtype."""
        exact = x if x.dtype in (torch.float32, torch.float64) else x.float()
        length = exact.square().sum(1, keepdim=True).clamp_min_(1e-24).sqrt_()
        scaled: Tensor = (exact * (self.scale / length)).to(x.dtype)
        return scaled.mul_(self.gamma)


def use_fast_layers(network: nn.Module) -> None:
    """Puts the layers above in the place of diffusers' own, with their parameters. For networks on the CPU."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, WanCausalConv3d) and child.stride[0] == 1:
                setattr(module, name, FramewiseCausalConv.of(child))
            elif isinstance(child, WanRMS_norm):
                setattr(module, name, ChannelNorm.of(child))
