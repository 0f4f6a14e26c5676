"""The causal speech-to-video DiT: from noisy latents and their conditions to the flow (specification, section 4).

Knows the forward of the whole network on this rank's strip. It keeps nothing between calls: the cache, the positions
and the conditions come in from the `Denoiser`. State-dict keys are those of the released generator.

Shapes: c latent channels, f latent frames, h x w the strip in latent cells, S tokens of the strip, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import linear

from worker.pipeline.config import DiTConfig
from worker.pipeline.dit.attention import Call
from worker.pipeline.dit.audio_net import CausalAudioEncoder
from worker.pipeline.dit.blocks import (
    AudioInjection,
    AudioInjector,
    BlockModulation,
    DiTBlock,
    Head,
)
from worker.pipeline.dit.kernels import CrossKeys, Kernels, RowNorm, Rows

VIDEO_MASK, REFERENCE_MASK = 0, 1
"""Rows of the mask embedding; row 2 is for motion frames, which this path has not."""


@dataclass(frozen=True)
class TimeCondition:
    """What one timestep does to every layer and to the head."""

    layers: tuple[BlockModulation, ...]
    head: RowNorm


@dataclass(frozen=True)
class Conditions:
    """What a block is made under: text keys of every layer, and the audio of every injection."""

    text: tuple[CrossKeys, ...]
    audio: tuple[AudioInjection, ...]


class DiT(nn.Module):
    """The network. Its forward reads the same on one rank and on many."""

    def __init__(self, config: DiTConfig, kernels: Kernels | None = None) -> None:
        super().__init__()
        self.kernels = kernels = kernels or Kernels()
        dim = config.dim
        self.config = config
        self.patch_embedding = nn.Conv3d(config.in_dim, dim, kernel_size=config.patch, stride=config.patch)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(DiTBlock(config, kernels) for _ in range(config.num_layers))
        self.head = Head(config)
        self.casual_audio_encoder = CausalAudioEncoder(config)  # the spelling of the released keys
        self.audio_injector = AudioInjector(config, kernels)
        self.trainable_cond_mask = _MaskEmbedding(dim)
        self._injection_after = {layer: number for number, layer in enumerate(config.audio_inject_layers)}
        self.requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and of the residual stream."""
        return self.patch_embedding.weight.dtype

    # What is computed once: per network, per prompt, per block

    def read_times(self, timesteps: Sequence[float]) -> Mapping[float, TimeCondition]:
        """The conditions of every timestep that will occur; constants of the checkpoint (shortcut 2)."""
        return {t: self._read_time(t) for t in timesteps}

    def forget_times(self) -> None:
        """Let go of the weights that only `read_times` needs: a hundredth of all."""
        del self.time_embedding, self.time_projection

    def read_text(self, prompt_TC: Tensor, *, prompt_rows: int) -> tuple[CrossKeys, ...]:
        """Text keys of every layer from the text encoder's [text_len, text_dim], zero beyond `prompt_rows`.

        All padding rows give the same key, so one is kept and counted (shortcut 3).
        """
        padding = prompt_TC.shape[0] - prompt_rows
        rows = min(prompt_rows + 1, prompt_TC.shape[0])
        context_1TD = self.text_embedding(prompt_TC[:rows].to(self.dtype))[None]
        return tuple(block.cross_attn.read(context_1TD, last_counts=max(1, padding)) for block in self._layers())

    def read_audio(self, window_NAR: Tensor) -> tuple[AudioInjection, ...]:
        """The audio of one block from its window of rows, [states, width, 4 * frames + 5] (shortcuts 1 and 5)."""
        tokens = self.casual_audio_encoder(window_NAR)
        return self.audio_injector.read(tokens.whole.to(self.dtype), tokens.local.to(self.dtype))

    # What is computed over and over

    def write_reference(
        self, latents_cfhw: Tensor, *, text: tuple[CrossKeys, ...], time: TimeCondition, call: Call
    ) -> None:
        """Prefill: keys and values of the reference frame, at t = 0 and without audio."""
        x_SD = self._embed(latents_cfhw, mask=REFERENCE_MASK)
        self._write_keys(x_SD, conditions=Conditions(text=text, audio=()), time=time, call=call)

    def write_context(self, latents_cfhw: Tensor, *, conditions: Conditions, time: TimeCondition, call: Call) -> None:
        """Keys and values of a finished block, at t = 0, for the blocks after it."""
        x_SD = self._embed(latents_cfhw, mask=VIDEO_MASK)
        self._write_keys(x_SD, conditions=conditions, time=time, call=call)

    def flow(self, latents_cfhw: Tensor, *, conditions: Conditions, time: TimeCondition, call: Call) -> Tensor:
        """The flow of a block's noisy latents [c, f, h, w], in the same shape. Writes the block's keys on the way."""
        x_SD = self._embed(latents_cfhw, mask=VIDEO_MASK)
        rows = self._through_layers(x_SD, len(self.blocks), conditions=conditions, time=time, call=call)
        _, p, q = self.config.patch
        flow: Tensor = rearrange(
            self.head(rows),
            "(f h w) (p q c) -> c f (h p) (w q)",
            f=latents_cfhw.shape[1],
            h=latents_cfhw.shape[2] // p,
            p=p,
            q=q,
        )
        return flow

    def _write_keys(self, x_SD: Tensor, *, conditions: Conditions, time: TimeCondition, call: Call) -> None:
        """All layers, but of the last one only what is read later (shortcut 4)."""
        last = len(self.blocks) - 1
        rows = self._through_layers(x_SD, last, conditions=conditions, time=time, call=call)
        self._layers()[last].self_attn.write(rows, layer=last, call=call)

    def _through_layers(
        self, x_SD: Tensor, layers: int, *, conditions: Conditions, time: TimeCondition, call: Call
    ) -> Rows:
        """The first so many layers: the rows that the next one, or the head, takes."""
        norms = (*(modulation.attention.norm for modulation in time.layers), time.head)
        rows = self.kernels.norm(x_SD, norms[0])
        for layer, block in enumerate(self._layers()[:layers]):
            number = self._injection_after.get(layer)
            audio = None if number is None or not conditions.audio else conditions.audio[number]
            x_SD, rows = block(
                x_SD,
                rows,
                modulation=time.layers[layer],
                text=conditions.text[layer],
                layer=layer,
                call=call,
                following=norms[layer + 1] if audio is None else audio.norm,
            )
            if audio is not None:
                x_SD, rows = self.audio_injector(x_SD, rows, number=number, audio=audio, following=norms[layer + 1])
        return rows

    def _layers(self) -> Sequence[DiTBlock]:
        return cast(Sequence[DiTBlock], tuple(self.blocks))

    def _embed(self, latents_cfhw: Tensor, *, mask: int) -> Tensor:
        """Patches to tokens in the order frame, row, column, with the mask embedding on each."""
        _, p, q = self.config.patch
        patches = rearrange(latents_cfhw.to(self.dtype), "c f (h p) (w q) -> (f h w) (c p q)", p=p, q=q)
        embedding = self.patch_embedding
        x_SD = linear(patches, embedding.weight.flatten(1), embedding.bias)
        return x_SD + self.trainable_cond_mask.weight[mask]

    def _read_time(self, timestep: float) -> TimeCondition:
        device = self.patch_embedding.weight.device
        sinusoid = time_sinusoid(timestep, self.config.freq_dim, device=device)
        e_D = self.time_embedding(sinusoid.to(self.dtype))
        e0_6D = self.time_projection(e_D).view(6, -1)
        return TimeCondition(
            layers=tuple(block.modulate(e0_6D) for block in self._layers()), head=self.head.modulate(e_D)
        )


class _MaskEmbedding(nn.Module):
    """One vector for each kind of token. Not `nn.Embedding`: its first draw on the meta device takes seconds."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, dim))


def time_sinusoid(timestep: float, freq_dim: int, *, device: torch.device) -> Tensor:
    """[freq_dim] float64, cosines first: `t * 10000 ** (-i / (freq_dim / 2))` (specification, section 4.2)."""
    half = freq_dim // 2
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=device) / half)
    angles = timestep * frequencies
    return torch.cat((angles.cos(), angles.sin()))
