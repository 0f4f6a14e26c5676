"""The causal audio encoder inside the DiT checkpoint (specification, section 9).

Knows windows of wav2vec2 rows and what one latent frame hears. A latent frame sees nine rows, so a window of 4n + 5
rows gives exactly n latent frames and no convolution needs padding: the whole sound and any cut of it give the same.
Rows before the first are copies of it; making them is the caller's business (`worker/pipeline/conditioning.py`).

Shapes: N states of wav2vec2, A their width, R rows (one per pixel frame), F latent frames, T tokens, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, silu

from worker.pipeline.config import FRAMES_PER_LATENT, DiTConfig

ROWS_BEFORE = 5
"""Latent frame m sees the rows 4m - 5 .. 4m + 3."""


def rows_for(latent_frames: int) -> int:
    """Rows of the window that gives so many latent frames."""
    return FRAMES_PER_LATENT * latent_frames + ROWS_BEFORE


@dataclass(frozen=True)
class AudioTokens:
    """What the DiT hears of each latent frame: a global vector in `whole` [F, D], and the
    `local` tokens [F, T, D], of which the last is padding."""

    whole: Tensor
    local: Tensor


class CausalAudioEncoder(nn.Module):
    """Mixes the states of wav2vec2 and brings them from 16 rows to 4 latent frames per second."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((1, config.audio_layers, 1, 1), 0.01))
        self.encoder = _MotionEncoder(config)

    def forward(self, rows_NAR: Tensor) -> AudioTokens:
        """A window of 4n + 5 rows to n latent frames."""
        if (rows_NAR.shape[-1] - ROWS_BEFORE) % FRAMES_PER_LATENT:
            raise ValueError(f"{rows_NAR.shape[-1]} rows are not 4n + {ROWS_BEFORE}")
        tokens: AudioTokens = self.encoder(self._mix(rows_NAR.to(self.weights.dtype)))
        return tokens

    def _mix(self, rows_NAR: Tensor) -> Tensor:
        """The weighted mean of the states, [A, R]."""
        weight_N11 = silu(self.weights[0])
        return (weight_N11 * rows_NAR).sum(0) / weight_N11.sum()


class _MotionEncoder(nn.Module):
    """Two branches over the same later convolutions: a global vector, and local tokens cut from wide channels."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        dim = config.dim
        self.tokens = config.num_audio_token
        self.eps = config.eps
        self.conv1_local = _Convolution(config.audio_dim, dim // 4 * self.tokens, stride=1)
        self.conv1_global = _Convolution(config.audio_dim, dim // 4, stride=1)
        self.conv2 = _Convolution(dim // 4, dim // 2, stride=2)
        self.conv3 = _Convolution(dim // 2, dim, stride=2)
        self.final_linear = nn.Linear(dim, dim)
        self.padding_tokens = nn.Parameter(torch.zeros(1, 1, 1, dim))

    def forward(self, x_AR: Tensor) -> AudioTokens:
        local_TCR = self.conv1_local(x_AR[None]).view(self.tokens, -1, x_AR.shape[-1] - 2)
        local_FTD = self._later(local_TCR).transpose(0, 1)
        padding_F1D = self.padding_tokens[0].expand(local_FTD.shape[0], -1, -1)
        global_FD = self.final_linear(self._later(self.conv1_global(x_AR[None]))[0])
        return AudioTokens(whole=global_FD, local=torch.cat((local_FTD, padding_F1D), dim=1))

    def _later(self, x_BCR: Tensor) -> Tensor:
        """Norm, stride 2, norm, stride 2, norm: [B, channels, rows] to [B, F, D]."""
        x_BCR = self.conv2(self._activate(x_BCR).transpose(1, 2))
        x_BCR = self.conv3(self._activate(x_BCR).transpose(1, 2))
        return self._activate(x_BCR)

    def _activate(self, x_BCR: Tensor) -> Tensor:
        """Layer norm over channels without weights, then SiLU; comes back as [B, rows, channels]."""
        x_BRC = x_BCR.transpose(1, 2)
        return silu(layer_norm(x_BRC, x_BRC.shape[-1:], eps=self.eps))


class _Convolution(nn.Module):
    """A convolution over three rows, without padding: the caller gives enough rows in front.

    Computed as one product: of a dozen rows a GPU's convolution would spend its time on rearranging the weight.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, kernel_size=3, stride=stride)

    def forward(self, x_BCR: Tensor) -> Tensor:
        seen_BCR3 = x_BCR.unfold(2, *self.conv.kernel_size, *self.conv.stride)
        made_BRE = linear(seen_BCR3.transpose(1, 2).flatten(2), self.conv.weight.flatten(1), self.conv.bias)
        return made_BRE.transpose(1, 2)
