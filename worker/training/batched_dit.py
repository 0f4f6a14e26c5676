"""The forward of the DiT for training: many clips and many blocks at once, with gradients.

Knows the same modules, parameters and arithmetic as inference (`worker/pipeline/dit/`), and computes the same numbers,
which a test holds it to. What differs is where keys are kept: inference has a cache that it writes into, here every
pass hands its keys out and is given those of the pass before.

A clip's blocks are seen in one call because a block attends to no more than the reference frame, the finished block
before it and itself: `context` gives the keys of all finished blocks, each under the one before, and `flow` those of
noisy blocks under finished ones.

Shapes: B clips, n blocks of each, M = B n, f latent frames of a block, F = M f, L tokens of a frame, S = f L of a
block, c latent channels, h x w latent cells, H heads, K channels of a head, P = K / 2, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from worker.pipeline.dit.attention import SelfAttention
from worker.pipeline.dit.blocks import AudioInjection, BlockModulation, DiTBlock, Modulation
from worker.pipeline.dit.dit import REFERENCE_MASK, VIDEO_MASK, DiT
from worker.pipeline.dit.kernels import CrossKeys, RowNorm, Rows, rms_norm, rotate
from worker.pipeline.dit.rope import TokenGrid, Turn, block_positions, sink_turns, space_angles, token_angles
from worker.pipeline.schedule import CLEAN


@dataclass(frozen=True)
class Keys:
    """Keys and values of every layer, [B, n, S, H, K] each; those of a reference frame have n = 1, S = L and are not
    turned yet, since they turn with the block that looks at them."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def but_last(self) -> Keys:
        """Those of all blocks but the last: of the blocks before all but the first."""
        return Keys(tuple(x[:, :-1] for x in self.keys), tuple(x[:, :-1] for x in self.values))

    def where(self, there_n: Tensor) -> Keys:
        """Keys of zeros, which are none, for blocks that are not there: `there` is 0 for them, 1 for the others."""
        return Keys(tuple(_where(x, there_n) for x in self.keys), self.values)


@dataclass(frozen=True)
class Turns:
    """Angles of consecutive blocks: of their tokens, [n, S, P], and of the reference frame under each, [n, L, P]."""

    tokens: Turn
    sink: Turn

    def part(self, blocks: slice) -> Turns:
        """Those of some of the blocks."""
        return Turns(*(Turn(turn.cos[blocks], turn.sin[blocks]) for turn in (self.tokens, self.sink)))


@dataclass(frozen=True)
class Scene:
    """What all passes over some clips share: their blocks' places in time and sounds, and what does not change."""

    turns: Turns
    frames: int
    """Latent frames of a block."""
    audio: tuple[AudioInjection, ...]
    text: tuple[CrossKeys, ...]
    reference: Keys

    def of_blocks(self, blocks: slice, *, clips: int) -> Scene:
        """The same for some of the blocks alone."""
        return Scene(
            turns=self.turns.part(blocks),
            frames=self.frames,
            audio=tuple(_of_blocks(heard, blocks, clips=clips, frames=self.frames) for heard in self.audio),
            text=self.text,
            reference=self.reference,
        )


def _of_blocks(heard: AudioInjection, blocks: slice, *, clips: int, frames: int) -> AudioInjection:
    def mine(x_F: Tensor) -> Tensor:
        return x_F.view(clips, -1, frames, *x_F.shape[1:])[:, blocks].flatten(0, 2)

    norm = replace(heard.norm, scale=mine(heard.norm.scale), shift=mine(heard.norm.shift))
    return AudioInjection(norm=norm, keys=CrossKeys(mine(heard.keys.keys), mine(heard.keys.values), heard.keys.bias))


class BatchedDiT:
    """The network over pictures of one size."""

    def __init__(self, dit: DiT, *, height: int, width: int) -> None:
        """`height` and `width` are in latent cells."""
        _, p, q = dit.config.patch
        self.dit = dit
        self.config = dit.config
        device = dit.patch_embedding.weight.device
        self._space_LP = space_angles(
            dit.config, TokenGrid(rows=range(height // p), columns=range(width // q)), device=device
        )
        written = _turn(self._sink_angles(0)[None])
        self._still = Turns(written, written)
        self._blocks: Sequence[DiTBlock] = dit._layers()

    def read_audio(self, windows_MNAR: Tensor) -> tuple[AudioInjection, ...]:
        """The windows of B n blocks, block after block and clip after clip, as `DiT.read_audio` reads one."""
        encoder = self.dit.casual_audio_encoder
        weight_N11 = torch.nn.functional.silu(encoder.weights[0])
        mixed_MAR = (weight_N11 * windows_MNAR).sum(1) / weight_N11.sum()
        motion = encoder.encoder
        local_TCR = rearrange(motion.conv1_local(mixed_MAR), "m (t c) r -> (m t) c r", t=motion.tokens)
        local_FTD = rearrange(motion._later(local_TCR), "(m t) f d -> (m f) t d", t=motion.tokens)
        padding_F1D = motion.padding_tokens[0].expand(local_FTD.shape[0], -1, -1)
        global_FD = motion.final_linear(motion._later(motion.conv1_global(mixed_MAR)).flatten(0, 1))
        injections: tuple[AudioInjection, ...] = self.dit.audio_injector.read(
            global_FD, torch.cat((local_FTD, padding_F1D), dim=1)
        )
        return injections

    def read_reference(self, reference_Bchw: Tensor, *, text: tuple[CrossKeys, ...]) -> Keys:
        """What `DiT.write_reference` leaves of the reference frames."""
        latents_Bncfhw = reference_Bchw[:, None, :, None]
        times = reference_Bchw.new_full(latents_Bncfhw.shape[:2], CLEAN)
        scene = Scene(self._still, frames=1, audio=(), text=text, reference=Keys((), ()))
        _, keys = self._run(latents_Bncfhw, times, scene, _OwnPast(), mask=REFERENCE_MASK)
        return keys

    def context(
        self, latents_Bncfhw: Tensor, scene: Scene, *, past: Keys | None = None, there_n: Tensor | None = None
    ) -> Keys:
        """Keys of finished blocks, as `DiT.write_context` writes them. Each of them is under the one before it; the
        first under `past`, n = 1, or under the reference frame alone. Blocks for which `there` is 0 are no blocks:
        nothing is under them, and their keys are zeros."""
        times_Bn = latents_Bncfhw.new_full(latents_Bncfhw.shape[:2], CLEAN)
        _, keys = self._run(latents_Bncfhw, times_Bn, scene, _OwnPast(past, there_n), mask=VIDEO_MASK)
        return keys if there_n is None else keys.where(there_n)

    def turns(self, first_block: int, count: int) -> Turns:
        """Angles of `first_block`, `first_block` + 1, …"""
        blocks = range(first_block, first_block + count)
        tokens = [token_angles(self.config, block_positions(self.config, block), self._space_LP) for block in blocks]
        sink = [self._sink_angles(sink_turns(self.config, block)) for block in blocks]
        return Turns(_turn(torch.stack(tokens)), _turn(torch.stack(sink)))

    def flow(self, latents_Bncfhw: Tensor, times_Bn: Tensor, scene: Scene, *, before: Keys) -> Tensor:
        """The flow of noisy blocks [B, n, c, f, h, w]. `before` are the keys of the finished block before each of
        them; those that are all zeros are no keys (there is none before block 0)."""
        flow, _ = self._run(latents_Bncfhw, times_Bn, scene, _GivenPast(before), mask=VIDEO_MASK)
        return flow

    def _run(
        self, latents_Bncfhw: Tensor, times_Bn: Tensor, scene: Scene, past: _OwnPast | _GivenPast, *, mask: int
    ) -> tuple[Tensor, Keys]:
        ops, dit = self.dit.kernels, self.dit
        B, n, _, f, height, _ = latents_Bncfhw.shape
        _, p, q = self.config.patch
        x_SD = self._embed(latents_Bncfhw, mask=mask)
        modulations, head = self._read_times(times_Bn.flatten())
        is_reference = mask == REFERENCE_MASK
        turn, sink_turn = scene.turns.tokens, scene.turns.sink
        rows = ops.norm(x_SD, modulations[0].attention.norm)
        kept: list[tuple[Tensor, Tensor]] = []
        for layer, (block, modulation) in enumerate(zip(self._blocks, modulations, strict=True)):
            following = modulations[layer + 1].attention.norm if layer + 1 < len(modulations) else head
            number = dit._injection_after.get(layer) if scene.audio else None
            q_BnSHK, k_BnSHK, v_BnSHK = self._project(block.self_attn, rows, B=B, n=n)
            still_BnSHK = k_BnSHK
            q_BnSHK, k_BnSHK = _turned(q_BnSHK, turn), _turned(k_BnSHK, turn)
            if is_reference:
                kept.append((still_BnSHK, v_BnSHK))
                o_BnSHK = _attend(q_BnSHK, k_BnSHK, v_BnSHK)
            else:
                kept.append((k_BnSHK, v_BnSHK))
                sink = (
                    _turned(scene.reference.keys[layer].expand(-1, n, -1, -1, -1), sink_turn),
                    scene.reference.values[layer].expand(-1, n, -1, -1, -1),
                )
                o_BnSHK = _attend_all(q_BnSHK, sink, past.of(layer, k_BnSHK, v_BnSHK), (k_BnSHK, v_BnSHK))
            y_SD = ops.linear(Rows(o_BnSHK.flatten(3).flatten(0, 2)), block.self_attn.o)
            x_SD = _gated(x_SD, y_SD, modulation.attention.gate)
            x_SD, rows = ops.add_norm(
                x_SD,
                block.cross_attn(ops.norm(x_SD, block._text_norm()), scene.text[layer]),
                modulation.feed_forward.norm,
            )
            x_SD = _gated(x_SD, block.ffn(rows), modulation.feed_forward.gate)
            if number is None:
                rows = ops.norm(x_SD, following)
            else:
                rows = ops.norm(x_SD, scene.audio[number].norm)
                x_SD, rows = dit.audio_injector(
                    x_SD, rows, number=number, audio=scene.audio[number], following=following
                )
        flow_Bncfhw = rearrange(
            dit.head(rows), "(b n f h w) (p q c) -> b n c f (h p) (w q)", b=B, n=n, f=f, h=height // p, p=p, q=q
        )
        return flow_Bncfhw, Keys(tuple(k for k, _ in kept), tuple(v for _, v in kept))

    def _project(self, attention: SelfAttention, rows: Rows, *, B: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, normed but not turned, and values, [B, n, S, H, K]."""
        ops = self.dit.kernels
        parts = (
            rms_norm(ops.linear(rows, attention.q), attention.norm_q.weight, eps=attention.eps),
            rms_norm(ops.linear(rows, attention.k), attention.norm_k.weight, eps=attention.eps),
            ops.linear(rows, attention.v),
        )
        q, k, v = (rearrange(x, "(b n s) (h k) -> b n s h k", b=B, n=n, h=attention.heads) for x in parts)
        return q, k, v

    def _embed(self, latents_Bncfhw: Tensor, *, mask: int) -> Tensor:
        _, p, q = self.config.patch
        embedding = self.dit.patch_embedding
        patches = rearrange(latents_Bncfhw, "b n c f (h p) (w q) -> (b n f h w) (c p q)", p=p, q=q)
        embedded = linear(patches, embedding.weight.flatten(1), embedding.bias)
        return embedded + self.dit.trainable_cond_mask.weight[mask]

    def _read_times(self, times_M: Tensor) -> tuple[tuple[BlockModulation, ...], RowNorm]:
        """As `DiT.read_times`, a row for each of the timesteps."""
        half = self.config.freq_dim // 2
        frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=times_M.device) / half)
        angles = times_M.double()[:, None] * frequencies
        e_MD = self.dit.time_embedding(torch.cat((angles.cos(), angles.sin()), 1).to(self.dit.dtype)).float()
        e0_M6D = rearrange(self.dit.time_projection(e_MD), "m (r d) -> m r d", r=6).float()
        modulations = []
        for block in self._blocks:
            parts = (block.modulation + e0_M6D).unbind(1)
            branches = [Modulation(RowNorm(1 + parts[i + 1], parts[i], block.eps), parts[i + 2]) for i in (0, 3)]
            modulations.append(BlockModulation(attention=branches[0], feed_forward=branches[1]))
        shift_MD, scale_MD = (self.dit.head.modulation + e_MD[:, None]).unbind(1)
        return tuple(modulations), RowNorm(1 + scale_MD, shift_MD, self.dit.head.eps)

    def _sink_angles(self, turned: int) -> Tensor:
        """[L, P]: the reference frame when it has turned so far."""
        return token_angles(self.config, [self.config.sink_position + turned], self._space_LP)


@dataclass(frozen=True)
class _OwnPast:
    """Every block sees the one before it in the same pass, the first what came before."""

    first: Keys | None = None
    there_n: Tensor | None = None

    def of(self, layer: int, k_BnSHK: Tensor, v_BnSHK: Tensor) -> tuple[Tensor, Tensor]:
        if self.there_n is not None:
            k_BnSHK = _where(k_BnSHK, self.there_n)
        if self.first is None:
            return _later(k_BnSHK), _later(v_BnSHK)
        return _later(k_BnSHK, self.first.keys[layer]), _later(v_BnSHK, self.first.values[layer])


@dataclass(frozen=True)
class _GivenPast:
    """Every block sees one that was finished in a pass before."""

    keys: Keys

    def of(self, layer: int, _k_BnSHK: Tensor, _v_BnSHK: Tensor) -> tuple[Tensor, Tensor]:
        return self.keys.keys[layer], self.keys.values[layer]


def _turn(angles_nSP: Tensor) -> Turn:
    return Turn(angles_nSP.cos().float(), angles_nSP.sin().float())


def _turned(x_BnSHK: Tensor, turn: Turn) -> Tensor:
    B = x_BnSHK.shape[0]
    every = Turn(*(part.expand(B, -1, -1, -1).flatten(0, 2) for part in (turn.cos, turn.sin)))
    return rotate(x_BnSHK.flatten(0, 2), every).view(x_BnSHK.shape)


def _later(x_Bn: Tensor, first_B1: Tensor | None = None) -> Tensor:
    """Everything one block later, behind `first` or zeros."""
    first_B1 = torch.zeros_like(x_Bn[:, :1]) if first_B1 is None else first_B1.to(x_Bn.dtype)
    return torch.cat((first_B1, x_Bn[:, :-1]), dim=1)


def _where(x_Bn: Tensor, there_n: Tensor) -> Tensor:
    return x_Bn * there_n.view(-1, 1, 1, 1).to(x_Bn.dtype)


def _gated(x_SD: Tensor, y_SD: Tensor, gate_MD: Tensor) -> Tensor:
    """The residual stream with a branch on it, times the gate of each block."""
    M, D = gate_MD.shape
    return torch.addcmul(x_SD.view(M, -1, D), y_SD.view(M, -1, D).to(x_SD.dtype), gate_MD[:, None]).flatten(0, 1)


def _attend_all(q_BnSHK: Tensor, *parts: tuple[Tensor, Tensor]) -> Tensor:
    """To the reference frame, the block before and the block itself; what is all zeros is not there."""
    dtype = parts[-1][1].dtype
    keys, values = (torch.cat([part[which].to(dtype) for part in parts], dim=2) for which in (0, 1))
    present = [k.detach().flatten(2).any(-1, keepdim=True).expand(-1, -1, k.shape[2]) for k, _ in parts]
    return _attend(q_BnSHK, keys, values, present_BnG=torch.cat(present, dim=-1))


def _attend(q_BnSHK: Tensor, k_BnGHK: Tensor, v_BnGHK: Tensor, *, present_BnG: Tensor | None = None) -> Tensor:
    """Softmax attention of every block by itself."""
    dtype = v_BnGHK.dtype
    q, k, v = (x.to(dtype).flatten(0, 1).transpose(1, 2) for x in (q_BnSHK, k_BnGHK, v_BnGHK))
    mask = None
    if present_BnG is not None:
        mask = present_BnG.flatten(0, 1)[:, None, None].expand(-1, -1, q.shape[2], -1)
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(q_BnSHK.shape)
