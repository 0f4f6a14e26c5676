"""What rank 0 and the DiT ranks say to each other during one render.

Knows four kinds of packets over a gloo group of all ranks, whatever carries the DiT's own all-to-alls:

1. *beginning*, rank 0 to every DiT rank: the prompt, the reference latents and the first block to make, or that there
   will be no render;
2. *block*, rank 0 to every DiT rank, one for each block: the sound it hears, or the word to stop or to give up;
3. *latents*, each DiT rank to rank 0, one for each block: its strip;
4. *kept*, rank 0 to every DiT rank, when a render goes on in the middle: the latents of a block made before, of the
   whole picture, behind its *block*. Of which blocks, both sides know by the first one to make.

All packets of a kind have one shape, known to both sides beforehand. Rank 0 gives word for blocks 0 and 1 at once, and
for block b + 2 when it has the latents of b; so the DiT never waits for rank 0 to decode, is never more than two blocks
ahead, and a stop takes hold within about one block. Sends are asynchronous and kept alive until they have arrived;
every wait ends by the timeout of the group in `PeerLost`. The reference has a service of its own for this; what is said
here follows none of it (specification, section 13 tells what that one does).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

import torch
import torch.distributed as dist
from torch import Tensor

from worker.pipeline.config import DiTConfig
from worker.pipeline.dit.audio_net import rows_for
from worker.pipeline.errors import PeerLost, RenderAborted, RenderStopped
from worker.pipeline.parallel import ENCODER_RANK, RankLayout, Strip, assemble

AHEAD = 2
"""Blocks for which rank 0 has given word before it has the latents of the first of them."""


class Word(IntEnum):
    """What rank 0 says about a block, or about the render as a whole."""

    GO = 0
    STOP = 1
    """The caller asked to stop."""
    ABORT = 2
    """Rank 0 failed and raises its own error."""


_HEAD = 3
"""Numbers in front of a beginning: the word, the prompt's rows, the first block."""


class _Tag(IntEnum):
    BEGINNING = 1
    BLOCK = 2
    LATENTS = 3
    KEPT = 4


@dataclass(frozen=True)
class Beginning:
    """What the DiT needs before the first block: the reference latents [c, 1, h, w] of the whole picture, and the
    prompt [text_len, text_dim] with the number of its rows that are not padding. Blocks before `first_block` were made
    in an earlier render, and those that still matter are replayed."""

    reference: Tensor
    prompt: Tensor
    prompt_rows: int
    first_block: int = 0


@dataclass(frozen=True)
class PacketShapes:
    """The shapes of a render's packets; the same on every rank."""

    reference: tuple[int, ...]
    prompt: tuple[int, ...]
    window: tuple[int, ...]
    strips: tuple[Strip, ...]
    channels: int
    frames: int

    @classmethod
    def of(cls, config: DiTConfig, strips: Sequence[Strip]) -> PacketShapes:
        """For a picture that is cut into these strips, one for each DiT rank."""
        last = strips[-1]
        return cls(
            reference=(config.in_dim, config.sink_frames, last.top + last.height, last.left + last.width),
            prompt=(config.text_len, config.text_dim),
            window=(config.audio_layers, config.audio_dim, rows_for(config.num_frame_per_block)),
            strips=tuple(strips),
            channels=config.out_dim,
            frames=config.num_frame_per_block,
        )

    def latents(self, strip: Strip) -> tuple[int, ...]:
        """Of what a DiT rank sends for one block: [c, f, h, w] of its strip."""
        return (self.channels, self.frames, strip.height, strip.width)

    @property
    def kept(self) -> tuple[int, ...]:
        """Of the latents of a block that is replayed, of the whole picture."""
        return (self.channels, self.frames, *self.reference[-2:])


class _Sending:
    """Packets on their way. A packet is kept until it has arrived, as gloo reads it while it sends."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self._on_their_way: deque[tuple[dist.Work, Tensor]] = deque()

    def send(self, packet: Tensor, *, to: int, tag: _Tag) -> None:
        with _peers_lost():
            work = dist.isend(packet, dst=to, group=self._group, tag=tag)
        assert work is not None, "this rank is not in the group of all ranks"
        self._on_their_way.append((work, packet))

    def wait_until(self, left: int) -> None:
        """Until at most `left` packets are on their way."""
        while len(self._on_their_way) > left:
            work, _ = self._on_their_way.popleft()
            _wait(work)


class EncoderLink:
    """Rank 0's end for one render. Every path out of a render leaves through `finish` or `give_up`."""

    def __init__(
        self, group: dist.ProcessGroup, layout: RankLayout, shapes: PacketShapes, *, blocks: int, dtype: torch.dtype
    ) -> None:
        """`dtype` is that of all packets."""
        self._group = group
        self._ranks = layout.dit_ranks
        self._shapes = shapes
        self._blocks = blocks
        self._dtype = dtype
        self._sending = _Sending(group)
        self._begun = False
        self._told = 0  # the next block that word is given for
        self._due = 0  # blocks whose latents will be sent
        self._received = 0

    def begin(self, beginning: Beginning, *, first_word: int) -> None:
        """Word that there will be a render, and that the next word is about block `first_word`.

        Like all other calls, raises `PeerLost` when a rank is gone.
        """
        reference, prompt = (x.to("cpu", self._dtype).reshape(-1) for x in (beginning.reference, beginning.prompt))
        head = torch.tensor([Word.GO, beginning.prompt_rows, beginning.first_block], dtype=self._dtype)
        self._send_all(torch.cat((head, reference, prompt)), tag=_Tag.BEGINNING)
        self._begun = True
        self._told = first_word

    def go(self, window: Tensor) -> None:
        """Word for the next block, with the sound it hears."""
        self._say_go(window)
        self._due += 1

    def replay(self, window: Tensor, latents: Tensor) -> None:
        """Word to replay the next block, with the sound it hears and its latents [c, f, h, w] of the whole picture."""
        self._say_go(window)
        # a view of all that was kept must not change under the sending, and a GPU's rank sends what is on the host
        kept = latents.to("cpu", self._dtype, copy=True).reshape(-1)
        self._send_all(kept, tag=_Tag.KEPT)

    def latents(self) -> Tensor:
        """The latents [c, f, h, w] of the next block, of the whole picture, on the CPU."""
        parts = [torch.empty(self._shapes.latents(strip), dtype=self._dtype) for strip in self._shapes.strips]
        works = [
            _receiving(part, source=rank, group=self._group, tag=_Tag.LATENTS)
            for part, rank in zip(parts, self._ranks, strict=True)
        ]
        for work in works:
            _wait(work)
        self._received += 1
        return assemble(self._shapes.strips, parts)

    def give_up(self, word: Word) -> None:
        """Release the DiT ranks before the end: they raise at the next block they have no word for.

        Raises `PeerLost`, over what the render ended with: the group is not usable any more.
        """
        if not self._begun:
            head = torch.tensor([word, 0, 0], dtype=self._dtype)
            body = sum(torch.Size(shape).numel() for shape in (self._shapes.reference, self._shapes.prompt))
            self._send_all(torch.cat((head, head.new_zeros(body))), tag=_Tag.BEGINNING)
        elif self._told < self._blocks:
            packet = torch.zeros(1 + torch.Size(self._shapes.window).numel(), dtype=self._dtype)
            packet[0] = word
            self._send_all(packet, tag=_Tag.BLOCK)
        self.finish()

    def finish(self) -> None:
        """Wait for what the DiT ranks still send, and until they have all that was sent to them."""
        while self._received < self._due:
            self.latents()
        self._sending.wait_until(0)

    def _say_go(self, window: Tensor) -> None:
        word = torch.tensor([Word.GO], dtype=self._dtype)
        self._send_all(torch.cat((word, window.to("cpu", self._dtype).reshape(-1))), tag=_Tag.BLOCK)
        self._told += 1

    def _send_all(self, packet: Tensor, *, tag: _Tag) -> None:
        self._sending.wait_until((AHEAD + 1) * len(self._ranks))
        for rank in self._ranks:
            self._sending.send(packet, to=rank, tag=tag)


class DiTLink:
    """A DiT rank's end for one render."""

    def __init__(self, group: dist.ProcessGroup, shapes: PacketShapes, *, dtype: torch.dtype) -> None:
        self._group = group
        self._shapes = shapes
        self._dtype = dtype
        self._sending = _Sending(group)

    def beginning(self) -> Beginning:
        """Raises `RenderAborted` or `RenderStopped` when there will be no render."""
        reference, prompt = (torch.Size(shape) for shape in (self._shapes.reference, self._shapes.prompt))
        packet = self._receive(_HEAD + reference.numel() + prompt.numel(), tag=_Tag.BEGINNING)
        _heed(packet[0], block=0)
        return Beginning(
            reference=packet[_HEAD : _HEAD + reference.numel()].view(reference),
            prompt=packet[_HEAD + reference.numel() :].view(prompt),
            prompt_rows=int(packet[1]),
            first_block=int(packet[2]),
        )

    def window(self, block: int) -> Tensor:
        """The sound of a block. Raises `RenderStopped` or `RenderAborted` when it is not to be made."""
        shape = torch.Size(self._shapes.window)
        packet = self._receive(1 + shape.numel(), tag=_Tag.BLOCK)
        try:
            _heed(packet[0], block=block)
        except (RenderStopped, RenderAborted):
            self.finish()
            raise
        return packet[1:].view(shape)

    def kept_latents(self) -> Tensor:
        """The latents [c, f, h, w] of a block that is replayed, of the whole picture. To be called after `window`."""
        shape = torch.Size(self._shapes.kept)
        return self._receive(shape.numel(), tag=_Tag.KEPT).view(shape)

    def send_latents(self, latents: Tensor) -> None:
        """This rank's strip of the block just made. Returns before it has arrived."""
        self._sending.wait_until(AHEAD)
        self._sending.send(latents.to("cpu", self._dtype).contiguous(), to=ENCODER_RANK, tag=_Tag.LATENTS)

    def finish(self) -> None:
        """Wait until rank 0 has all that was sent. Raises `PeerLost`."""
        self._sending.wait_until(0)

    def _receive(self, numbers: int, *, tag: _Tag) -> Tensor:
        packet = torch.empty(numbers, dtype=self._dtype)
        _wait(_receiving(packet, source=ENCODER_RANK, group=self._group, tag=tag))
        return packet


def connect_all_ranks(layout: RankLayout) -> dist.ProcessGroup | None:
    """The gloo group of all ranks; None for a rank alone. A collective call of all ranks of the world."""
    if layout.world_size == 1:
        return None
    group = dist.new_group(list(range(layout.world_size)), timeout=layout.timeout, backend="gloo")
    assert isinstance(group, dist.ProcessGroup), "a group of all ranks holds this one"
    return group


def _heed(word: Tensor, *, block: int) -> None:
    match Word(int(word)):
        case Word.STOP:
            raise RenderStopped(block=block)
        case Word.ABORT:
            raise RenderAborted(f"rank {ENCODER_RANK} gave up before block {block}")
        case Word.GO:
            return


def _receiving(packet: Tensor, *, source: int, group: dist.ProcessGroup, tag: _Tag) -> dist.Work:
    with _peers_lost():
        work = dist.irecv(packet, src=source, group=group, tag=tag)
    assert work is not None, "this rank is not in the group of all ranks"
    return work


def _wait(work: dist.Work) -> None:
    with _peers_lost():
        work.wait()


@contextmanager
def _peers_lost() -> Iterator[None]:
    """gloo says all it has to say by RuntimeErrors, about a known death at once and about a silence by its timeout."""
    try:
        yield
    except RuntimeError as error:
        raise PeerLost(f"another rank of the group did not answer: {error}") from error
