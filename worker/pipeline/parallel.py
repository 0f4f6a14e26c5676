"""Who holds what in a group of ranks, and the cut of one picture over several of them (specification, section 15).

Knows ranks, strips and the all-to-alls of sequence parallelism; nothing of layers, jobs or how processes are started.
`torch.distributed` is initialised by the caller. What rank 0 and the DiT ranks say to each other is in `exchange.py`.

A group of one rank does everything. In a larger one rank 0 holds the encoders and the VAE, and all others are one
sequence-parallel DiT group, in which each holds a strip of the picture outside attention and some of the heads inside.

Shapes: S tokens of a strip, G tokens of the whole sequence (strip after strip), H all heads, h heads of one rank,
K channels of a head, P ranks of the DiT group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from worker.pipeline.config import PIXELS_PER_LATENT, DiTConfig
from worker.pipeline.dit.rope import TokenGrid
from worker.pipeline.rank_counts import CutSide, check_picture

ENCODER_RANK = 0


@dataclass(frozen=True)
class RankLayout:
    """This rank's place in a group of `world_size`, and how long it waits for another before it gives up."""

    rank: int
    world_size: int
    timeout: timedelta = timedelta(minutes=10)

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} is not in a world of {self.world_size}")

    @classmethod
    def alone(cls) -> RankLayout:
        """The layout of a single rank, which does everything."""
        return cls(rank=0, world_size=1)

    @property
    def holds_encoders(self) -> bool:
        """Encoders and VAE are always on the same rank."""
        return self.rank == ENCODER_RANK

    @property
    def holds_dit(self) -> bool:
        """Whether this rank denoises: all but rank 0, or a rank alone."""
        return self.world_size == 1 or self.rank != ENCODER_RANK

    @property
    def dit_ranks(self) -> range:
        """The ranks that denoise, in the order of their strips."""
        return range(1) if self.world_size == 1 else range(1, self.world_size)

    @property
    def dit_size(self) -> int:
        """P, the ranks over which one sequence is cut."""
        return len(self.dit_ranks)

    @property
    def dit_rank(self) -> int:
        """This rank's number within the DiT group."""
        return self.dit_ranks.index(self.rank)


@dataclass(frozen=True)
class Strip:
    """The part of the latent picture that one DiT rank holds, in latent cells; all of it when it is the only one."""

    top: int
    left: int
    height: int
    width: int

    def of(self, latents: Tensor) -> Tensor:
        """A view of this strip in [..., full height, full width]."""
        return latents[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def grid(self, config: DiTConfig) -> TokenGrid:
        """Its tokens, in coordinates of the whole picture."""
        _, p, q = config.patch
        return TokenGrid(
            rows=range(self.top // p, (self.top + self.height) // p),
            columns=range(self.left // q, (self.left + self.width) // q),
        )


def cut(config: DiTConfig, *, height: int, width: int, parts: int) -> tuple[Strip, ...]:
    """The strips of a picture of `height` x `width` pixels, one for each of `parts` DiT ranks.

    Rows of wide pictures are cut and columns of others, as in the reference, unless only the other side divides. The
    numbers do not depend on it. Raises `ImpossibleLayout` naming the possible world sizes.
    """
    side = check_picture(config, parts=parts, height=height, width=width)
    rows, columns = height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT
    if side is CutSide.ROWS:
        strip = rows // parts
        return tuple(Strip(top=i * strip, left=0, height=strip, width=columns) for i in range(parts))
    strip = columns // parts
    return tuple(Strip(top=0, left=i * strip, height=rows, width=strip) for i in range(parts))


class SequenceParallel:
    """Exchange of tokens against heads inside the DiT group. With one rank nothing is sent."""

    def __init__(self, *, size: int, group: dist.ProcessGroup | None) -> None:
        """`group` is the DiT group (nccl or gloo); None when `size` is 1."""
        self.size = size
        self._group = group

    def outgoing(self, gathered_GhK: Tensor) -> Tensor:
        """Where to write what `exchange` is to gather there: for each rank its heads of my tokens, [P, S, h, K].

        With one rank that is the same memory.
        """
        parts_PShK = self._parts(gathered_GhK)
        return parts_PShK if self.size == 1 else torch.empty_like(parts_PShK)

    def exchange(self, outgoing_PShK: Sequence[Tensor], gathered_GhK: Sequence[Tensor]) -> None:
        """Give away the heads of other ranks, get their tokens of mine; all tensors travel together."""
        if self.size == 1:
            return
        assert self._group is not None, "several ranks have a group"
        me = dist.get_rank(self._group)
        others = [(part, dist.get_global_rank(self._group, part)) for part in range(self.size) if part != me]
        travels = []
        for sent_PShK, received_GhK in zip(outgoing_PShK, gathered_GhK, strict=True):
            received_PShK = self._parts(received_GhK)
            received_PShK[me].copy_(sent_PShK[me])
            for part, rank in others:
                travels.append(dist.P2POp(dist.isend, _as_bytes(sent_PShK[part]), rank, self._group))
                travels.append(dist.P2POp(dist.irecv, _as_bytes(received_PShK[part]), rank, self._group))
        for work in dist.batch_isend_irecv(travels):
            work.wait()

    def gather_heads(self, x_GhK: Tensor) -> Tensor:
        """The way back: every rank's heads of my tokens, [P, S, h, K]."""
        sent_PShK = self._parts(x_GhK)
        if self.size == 1:
            return sent_PShK
        received_PShK = torch.empty_like(sent_PShK)
        self.exchange([sent_PShK], [received_PShK.flatten(0, 1)])
        return received_PShK

    def _parts(self, x_GhK: Tensor) -> Tensor:
        return x_GhK.view(self.size, -1, *x_GhK.shape[1:])


def _as_bytes(x: Tensor) -> Tensor:
    """8-bit floats as plain bytes, which every backend can carry."""
    return x.view(torch.uint8) if x.element_size() == 1 else x


def connect_dit_ranks(layout: RankLayout, *, device: torch.device) -> SequenceParallel | None:
    """The exchange inside the DiT group; None on a rank without the DiT. A collective call of all ranks of the world.

    Runs over nccl between GPUs and over gloo between processors.
    """
    if layout.world_size == 1:
        return SequenceParallel(size=1, group=None)
    backend = "nccl" if device.type == "cuda" else "gloo"
    group = dist.new_group(list(layout.dit_ranks), timeout=layout.timeout, backend=backend)
    if not layout.holds_dit:
        return None
    return SequenceParallel(size=layout.dit_size, group=group)


def assemble(strips: Sequence[Strip], parts: Sequence[Tensor]) -> Tensor:
    """The whole latent picture [..., height, width] from the strips of all ranks."""
    last = strips[-1]
    whole = parts[0].new_empty(*parts[0].shape[:-2], last.top + last.height, last.left + last.width)
    for strip, part in zip(strips, parts, strict=True):
        strip.of(whole).copy_(part)
    return whole
