"""Keys and values of the reference frame and the last blocks, for every layer (specification, section 6).

Knows slots: where the reference frame (the sink) and each block lie, which of them a call may attend to, and how the
sink's keys turn. Under sequence parallelism a rank keeps the keys of the whole sequence for its own heads.

Slots of a layer: the sink's L tokens, then a ring of `ring_blocks` blocks; block b overwrites block b - ring_blocks.
Shapes: N layers, L tokens of one latent frame of the whole picture, H heads of this rank, K channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from worker.pipeline.config import DiTConfig
from worker.pipeline.dit.kernels import Kernels
from worker.pipeline.dit.rope import Rope, sink_turns
from worker.pipeline.sink_rotation import SinkRotation


@dataclass(frozen=True)
class Slots:
    """Where one call writes its keys and values, and the slots it attends to (they include its own)."""

    write: slice
    read: slice


class KVCache:
    """The attention cache of one job, allocated once."""

    def __init__(
        self,
        config: DiTConfig,
        *,
        tokens_per_frame: int,
        heads: int,
        rotation: SinkRotation,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._config = config
        self._rotation = rotation
        self._sink = config.sink_frames * tokens_per_frame
        self._block = config.num_frame_per_block * tokens_per_frame
        self._turned = 0
        slots = self._sink + config.ring_blocks * self._block
        shape = (config.num_layers, slots, heads, config.head_dim)
        self.k_NGHK = torch.zeros(shape, device=device, dtype=dtype)
        self.v_NGHK = torch.zeros(shape, device=device, dtype=dtype)
        self._still_k_NLHK = torch.empty_like(self.k_NGHK[:, : self._sink])

    def reference_slots(self) -> Slots:
        """The reference frame attends to itself only."""
        return Slots(write=slice(0, self._sink), read=slice(0, self._sink))

    def block_slots(self, block: int) -> Slots:
        """A block attends to the sink, to the blocks still in the ring and to itself."""
        start = self._sink + block % self._config.ring_blocks * self._block
        filled = min(block + 1, self._config.ring_blocks)
        return Slots(
            write=slice(start, start + self._block),
            read=slice(0, self._sink + filled * self._block),
        )

    def restart(self) -> None:
        """A new session begins; its reference frame is to be written and kept next."""
        self._turned = 0

    def keep_reference(self) -> None:
        """To be called after the reference frame was written: the session turns these keys."""
        self._still_k_NLHK.copy_(self.k_NGHK[:, : self._sink])

    def turn_sink(self, block: int, *, rope: Rope, kernels: Kernels) -> None:
        """Bring the sink's keys to the position they have while `block` is made. Nothing happens before block 10."""
        turns = sink_turns(self._config, block)
        if turns == self._turned:
            return
        if self._rotation is SinkRotation.EXACT:
            self._write_turned(self._still_k_NLHK, turns, rope=rope, kernels=kernels)
        else:
            for _ in range(self._turned, turns):
                self._write_turned(self.k_NGHK[:, : self._sink], 1, rope=rope, kernels=kernels)
        self._turned = turns

    def _write_turned(self, keys_NLHK: torch.Tensor, turns: int, *, rope: Rope, kernels: Kernels) -> None:
        kernels.turn_keys(keys_NLHK, rope.time_shift(turns), out_NLhK=self.k_NGHK[:, : self._sink])
