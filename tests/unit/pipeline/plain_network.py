"""The DiT once more, written down as the specification reads, without any of the shortcuts.

Every forward recomputes everything: the audio encoder over the whole sound with 73 copies of its first row in front,
the text with all of its padding, the time vectors. Keys are kept per layer and turned in place. Slow and in float64;
it knows a state dict and tensors, and shares no code with the pipeline.

Shapes: S tokens, D channels, H heads, P pairs of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from worker.pipeline.config import DiTConfig


@dataclass
class PlainSession:
    """One session of blocks under one prompt and one sound."""

    config: DiTConfig
    weights: dict[str, Tensor]
    prompt: Tensor  # [text_len, text_dim]
    sound: Tensor  # [states, width, rows]
    size: tuple[int, int]  # latent cells
    sink: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    finished: dict[int, dict[int, tuple[Tensor, Tensor]]] = field(default_factory=dict)

    def prefill(self, reference: Tensor) -> None:
        kept = self._forward(reference, t=0.0, positions=[30], mask=1, audio=None, past=[])[1]
        self.sink = kept

    def block(self, block: int, noises: list[Tensor], timesteps: list[float], pointer: int) -> Tensor:
        positions = [1 + 2 * block, 2 + 2 * block]
        if positions[0] > 20:
            self.sink = {n: (self._turn(k, [1], (0, 1), (0, 1), still=True), v) for n, (k, v) in self.sink.items()}
        past = [self.sink] + [self.finished[b] for b in (block - 1,) if b in self.finished]
        x = noises[0]
        for i, t in enumerate(timesteps):
            flow, _ = self._forward(x, t=t, positions=positions, mask=0, audio=pointer, past=past)
            clean = x - sigma(t) * flow
            if i + 1 < len(timesteps):
                s = sigma(timesteps[i + 1])
                x = (1 - s) * clean + s * noises[i + 1]
        self.finished[block] = self._forward(clean, t=0.0, positions=positions, mask=0, audio=pointer, past=past)[1]
        return clean

    def _forward(
        self,
        x: Tensor,
        *,
        t: float,
        positions: list[int],
        mask: int,
        audio: int | None,
        past: list[dict[int, tuple[Tensor, Tensor]]],
    ) -> tuple[Tensor, dict[int, tuple[Tensor, Tensor]]]:
        w, c = self.weights, self.config
        frames = x.shape[1]
        y = functional.conv3d(x[None], w["patch_embedding.weight"], w["patch_embedding.bias"], stride=(1, 2, 2))
        y = y[0].flatten(1).T + w["trainable_cond_mask.weight"][mask]
        half = c.freq_dim // 2
        angle = t * 10000 ** (-torch.arange(half, dtype=torch.float64) / half)
        e = self._linear("time_embedding.0", torch.cat((angle.cos(), angle.sin())))
        e = self._linear("time_embedding.2", functional.silu(e))
        e0 = self._linear("time_projection.1", functional.silu(e)).view(6, -1)
        context = self._linear("text_embedding.0", self.prompt)
        context = self._linear("text_embedding.2", functional.gelu(context, approximate="tanh"))
        kept = {}
        for n in range(c.num_layers):
            p = f"blocks.{n}"
            m = w[f"{p}.modulation"][0] + e0
            a = self._norm(y) * (1 + m[1]) + m[0]
            q, k, v = (self._project(f"{p}.self_attn", a, what) for what in "qkv")
            q, k = (self._turn(z, positions, (0, self.size[0] // 2), (0, self.size[1] // 2)) for z in (q, k))
            kept[n] = (k, v)
            keys = torch.cat([*(layer[n][0] for layer in past), k])
            values = torch.cat([*(layer[n][1] for layer in past), v])
            y = y + self._linear(f"{p}.self_attn.o", attention(q, keys, values)) * m[2]
            a = self._norm(y) * w[f"{p}.norm3.weight"] + w[f"{p}.norm3.bias"]
            q = self._project(f"{p}.cross_attn", a, "q")
            k, v = (self._project(f"{p}.cross_attn", context, what) for what in "kv")
            y = y + self._linear(f"{p}.cross_attn.o", attention(q, k, v))
            a = self._norm(y) * (1 + m[4]) + m[3]
            a = functional.gelu(self._linear(f"{p}.ffn.0", a), approximate="tanh")
            y = y + self._linear(f"{p}.ffn.2", a) * m[5]
            if audio is not None and n in c.audio_inject_layers:
                y = self._inject(y, c.audio_inject_layers.index(n), audio, frames)
        s = w["head.modulation"][0] + e
        y = self._linear("head.head", self._norm(y) * (1 + s[1]) + s[0])
        h, v_ = self.size[0] // 2, self.size[1] // 2
        y = y.view(frames, h, v_, 2, 2, c.out_dim).permute(5, 0, 1, 3, 2, 4)
        return y.reshape(c.out_dim, frames, 2 * h, 2 * v_), kept

    def _inject(self, y: Tensor, number: int, pointer: int, frames: int) -> Tensor:
        whole, local = self._encode_sound()
        p = f"audio_injector.injector.{number}"
        made = []
        for f, tokens in enumerate(y.view(frames, -1, y.shape[-1])):
            style = self._linear(
                f"audio_injector.injector_adain_layers.{number}.linear", functional.silu(whole[pointer + f])
            )
            shift, scale = style.chunk(2)
            z = self._norm(tokens, eps=1e-5) * (1 + scale) + shift
            q = self._project(p, z, "q")
            k, v = (self._project(p, local[pointer + f], what) for what in "kv")
            made.append(tokens + self._linear(f"{p}.o", attention(q, k, v)))
        return torch.cat(made)

    def _encode_sound(self) -> tuple[Tensor, Tensor]:
        w, sound = self.weights, self.sound
        sound = torch.cat((sound[..., :1].expand(-1, -1, 73), sound), dim=-1)
        weight = functional.silu(w["casual_audio_encoder.weights"][0])
        x = (weight * sound).sum(0) / weight.sum()

        def conv(name: str, z: Tensor, stride: int) -> Tensor:
            padded = functional.pad(z[None], (2, 0), mode="replicate")
            p = f"casual_audio_encoder.encoder.{name}.conv"
            return functional.conv1d(padded, w[f"{p}.weight"], w[f"{p}.bias"], stride=stride)[0]

        def branch(z: Tensor) -> Tensor:
            for name in ("conv2", "conv3"):
                z = conv(name, functional.silu(self._norm(z.T)).T, 2)
            return functional.silu(self._norm(z.T))

        tokens = [branch(z) for z in conv("conv1_local", x, 1).chunk(self.config.num_audio_token)]
        padding = w["casual_audio_encoder.encoder.padding_tokens"][0, 0].expand_as(tokens[0])
        local = torch.stack([*tokens, padding], dim=1)
        whole = self._linear("casual_audio_encoder.encoder.final_linear", branch(conv("conv1_global", x, 1)))
        return whole[19:], local[19:]

    def _project(self, p: str, x: Tensor, what: str) -> Tensor:
        """[S, D] to [S, H, D / H], queries and keys normed over all channels."""
        y = self._linear(f"{p}.{what}", x)
        if what in "qk":
            y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.weights[f"{p}.norm_{what}.weight"]
        return y.view(y.shape[0], self.config.num_heads, -1)

    def _turn(
        self, x: Tensor, times: list[int], rows: tuple[int, int], columns: tuple[int, int], *, still: bool = False
    ) -> Tensor:
        """Complex pairs times exp(i * position * frequency); with `still`, only by time and alike for all tokens."""
        pairs = x.shape[-1] // 2
        side = pairs // 3
        sizes = (pairs - 2 * side, side, side)
        frequencies = [10000 ** (-torch.arange(n, dtype=torch.float64) / n) for n in sizes]
        angles = []
        for t in times:
            for r in range(*rows):
                for c in range(*columns):
                    place = (t, 0, 0) if still else (t, r, c)
                    angles.append(torch.cat([at * f for at, f in zip(place, frequencies, strict=True)]))
        turn = torch.polar(torch.ones(pairs, dtype=torch.float64), torch.stack(angles))
        z = torch.view_as_complex(x.view(*x.shape[:-1], pairs, 2)) * turn[:, None]
        return torch.view_as_real(z).flatten(-2)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    @staticmethod
    def _norm(x: Tensor, eps: float = 1e-6) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("shk,ghk->hsg", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("hsg,ghk->shk", scores.softmax(-1), v).flatten(1)


def sigma(t: float) -> float:
    return float(torch.tensor(t, dtype=torch.float32) / 1000)
