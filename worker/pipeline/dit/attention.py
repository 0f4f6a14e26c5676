"""The attentions of a layer: over the cached video, over the text, over the audio (specification, section 4).

Knows what attends to what, and where keys are kept. Self-attention reads the same on one rank or many: tokens are
exchanged for heads on the way in and back on the way out. Only the new tokens travel: the cache keeps all tokens, of
this rank's heads.

Shapes: S tokens of this rank, G tokens of the whole sequence, T keys, F latent frames, D channels, h heads of this
rank, K channels of a head, P ranks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from worker.pipeline.config import DiTConfig
from worker.pipeline.dit.kernels import CrossKeys, Kernels, Rows, exact_dtype
from worker.pipeline.dit.kv_cache import KVCache, Slots
from worker.pipeline.dit.projections import Projections
from worker.pipeline.dit.rope import Turn
from worker.pipeline.parallel import SequenceParallel


@dataclass(frozen=True)
class Call:
    """What all layers of one forward share."""

    slots: Slots
    turn: Turn
    cache: KVCache
    sequence: SequenceParallel


class SelfAttention(Projections):
    """Attention of a block's tokens to the reference frame, the previous block and themselves."""

    def __init__(self, config: DiTConfig, kernels: Kernels) -> None:
        super().__init__(config)
        self.kernels = kernels

    def forward(self, rows: Rows, *, layer: int, call: Call) -> Tensor:
        """Rows to [S, D]; writes these tokens' keys first, and attends to the slots of the call (section 6)."""
        q_GhK = self.write(rows, layer=layer, call=call)
        k_GhK = call.cache.k_NGHK[layer, call.slots.read]
        v_GhK = call.cache.v_NGHK[layer, call.slots.read]
        o_GhK = self.kernels.attend(q_GhK, k_GhK, v_GhK)
        return self.kernels.linear(self.kernels.merge(call.sequence.gather_heads(o_GhK)), self.o)

    def write(self, rows: Rows, *, layer: int, call: Call) -> Tensor:
        """Put the keys (after RoPE) and values of these tokens into the cache of every rank that needs them.

        The queries of all tokens, [G, h, K].
        """
        k_GhK = call.cache.k_NGHK[layer, call.slots.write]
        v_GhK = call.cache.v_NGHK[layer, call.slots.write]
        gathered = (k_GhK.new_empty(k_GhK.shape), k_GhK, v_GhK)
        outgoing = tuple(call.sequence.outgoing(x_GhK) for x_GhK in gathered)
        q_PShK, k_PShK, v_PShK = outgoing
        self.kernels.project(rows, self, call.turn, q_PShK=q_PShK, k_PShK=k_PShK, v_PShK=v_PShK)
        call.sequence.exchange(outgoing, gathered)
        return gathered[0]


class CrossAttention(Projections):
    """Attention to the prompt, or of every latent frame to its own sound. No positions and no mask."""

    def __init__(self, config: DiTConfig, kernels: Kernels) -> None:
        super().__init__(config)
        self.kernels = kernels

    def forward(self, rows: Rows, keys: CrossKeys) -> Tensor:
        """Rows to [S, D]."""
        return self.kernels.cross(rows, self, keys)

    def read(self, context_FTD: Tensor, *, last_counts: int = 1) -> CrossKeys:
        """Keys and values of the tokens of each latent frame. The last one stands for so many equal ones:
        a key counted n times in a softmax is one key with log(n) on its score."""
        bias_T = context_FTD.new_zeros(context_FTD.shape[1], dtype=exact_dtype(context_FTD.dtype))
        bias_T[-1:].fill_(math.log(last_counts))  # an assignment would copy from the host
        return self.kernels.read_keys(context_FTD, self, bias_T=bias_T)
