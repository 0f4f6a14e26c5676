"""One render on one rank: sound and a picture in, frames out, block by block (specification, sections 1, 7 and 13).

Knows the order of encoding, denoising and decoding, and which of them this rank does. It does not know processes, files
or jobs. Alone, a rank does one after the other; in a group rank 0 decodes block n while the DiT ranks make block n + 1.

Memory does not grow with the length of the video: rows of sound, latents and frames of a block are let go after it.

A render that was broken off goes on in the middle (`resumption.py`): the DiT replays the context pass of the blocks
that its cache still depends on, the decoder decodes what its own depends on, and from there on all is as if it had
never stopped. Rank 0 alone has the latents of the blocks before, and sends them with the sound.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from worker.pipeline.checkpoint import WeightSource
from worker.pipeline.compute import Compute
from worker.pipeline.conditioning import block_count
from worker.pipeline.config import PipelineConfig
from worker.pipeline.cuda_dit_clock import CUDADiTClock
from worker.pipeline.dit.kernels import exact_dtype
from worker.pipeline.dit_clock import DiTClock, WallDiTClock
from worker.pipeline.dit_share import DiTShare
from worker.pipeline.errors import PeerLost, RenderAborted, RenderStopped
from worker.pipeline.exchange import AHEAD, DiTLink, EncoderLink, PacketShapes, Word, connect_all_ranks
from worker.pipeline.latents_on_the_way import LatentsOnTheWay
from worker.pipeline.parallel import RankLayout, Strip, connect_dit_ranks, cut
from worker.pipeline.rank_counts import check_heads
from worker.pipeline.reach import replayed_blocks
from worker.pipeline.settings import RenderInputs, RenderSettings

if TYPE_CHECKING:
    from worker.pipeline.encoders import Encoded, Encoders, FrameDecoder
    from worker.pipeline.encoding_ahead import EncodingAhead
    from worker.pipeline.vae_stream import FramesOnTheWay

__all__ = ["Pipeline", "RenderInputs", "RenderSettings", "RenderedBlock"]

ShouldStop = Callable[[], bool]


@dataclass(frozen=True)
class RenderedBlock:
    """Frames of one block, uint8 [n, height, width, 3] RGB, and the latents [c, f, h, w] they are of, on the host."""

    index: int
    blocks_total: int
    frames: NDArray[np.uint8]
    latents: torch.Tensor


class Pipeline:
    """One rank's share of the network. Same calls on every rank, in the same order."""

    def __init__(
        self,
        config: PipelineConfig,
        *,
        layout: RankLayout,
        compute: Compute,
        all_ranks: dist.ProcessGroup | None,
        encoders: Encoders | None,
        ahead: EncodingAhead | None,
        dit: DiTShare | None,
    ) -> None:
        """`all_ranks` is None on a rank alone; `encoders`, `ahead` and `dit` where the layout puts them elsewhere."""
        self.config = config
        self._layout = layout
        self._packet_dtype = exact_dtype(compute.dtype)
        self._all_ranks = all_ranks
        self._encoders = encoders
        self._ahead = ahead
        self._dit = dit
        on_gpu = compute.device.type == "cuda"
        self.clock: DiTClock = CUDADiTClock() if on_gpu else WallDiTClock()
        self._behind = 1 if on_gpu else 0
        """Blocks of the DiT that are waited for later than they were asked for: a GPU goes on by itself."""

    @classmethod
    def create(
        cls,
        config: PipelineConfig,
        *,
        layout: RankLayout,
        compute: Compute,
        weights: WeightSource,
    ) -> Pipeline:
        """Build and load only this rank's networks. In a group this is a collective call.

        Raises `ImpossibleLayout` before anything is loaded, and `CheckpointError`.
        """
        check_heads(config.dit, parts=layout.dit_size)
        all_ranks = connect_all_ranks(layout)
        sequence = connect_dit_ranks(layout, device=compute.device)
        encoders = ahead = dit = None
        if layout.holds_encoders:
            from worker.pipeline.encoders import Encoders  # their libraries take seconds to import
            from worker.pipeline.encoding_ahead import EncodingAhead

            encoders = Encoders.load(config, compute=compute, weights=weights)
            ahead = EncodingAhead(encoders, device=compute.device)
        if sequence is not None:
            dit = DiTShare.load(config.dit, sequence=sequence, layout=layout, compute=compute, weights=weights)
        return cls(config, layout=layout, compute=compute, all_ranks=all_ranks, encoders=encoders, ahead=ahead, dit=dit)

    def prepare(self, settings: RenderSettings, inputs: RenderInputs) -> Encoded:
        """Rank 0, from any thread and while another video is drawn: encode what `render` will be given.

        Raises `InvalidRender` and whatever goes wrong with the inputs.
        """
        assert self._ahead is not None, "rank 0 holds the encoders"
        return self._ahead.encode(settings, inputs)

    def render(
        self, settings: RenderSettings, *, inputs: RenderInputs | Encoded | None, should_stop: ShouldStop
    ) -> Generator[RenderedBlock, None, None]:
        """Make `settings.frames` frames, or the rest of them. Every rank iterates; frames come out of rank 0 only.

        `inputs` is given on rank 0, as they are or as `prepare` made them, and None elsewhere. `should_stop` is asked
        on rank 0 before it gives word for each block; in a group that is two blocks ahead, so the last two are finished
        whatever it says. Rank 0 may leave early by closing the generator (`contextlib.closing`); the other ranks then
        end with `RenderAborted`, or, when all their blocks were under way, in the usual manner.

        Raises `ImpossibleLayout` on all ranks, before anything else, for a picture that does not cut into so many
        parts; `RenderStopped` on all ranks at the same block border; on rank 0 `InvalidRender` and whatever goes wrong
        with the inputs, and then `RenderAborted` on all others; `PeerLost` when another rank is gone.
        """
        self.check(settings)
        if self._all_ranks is None:
            return self._render_alone(settings, inputs, should_stop)
        if self._layout.holds_encoders:
            return self._render_as_encoder(settings, inputs, should_stop, self._encoder_link(self._all_ranks, settings))
        shapes = PacketShapes.of(self.config.dit, self._strips(settings))
        return self._render_as_dit(settings, DiTLink(self._all_ranks, shapes, dtype=self._packet_dtype))

    def check(self, settings: RenderSettings) -> None:
        """Raises `ImpossibleLayout`, the same on all ranks, for a picture that does not cut into so many parts."""
        self._strips(settings)

    def decline(self, settings: RenderSettings) -> None:
        """Rank 0 in place of `render`, when it could not even make the inputs: all others end with `RenderAborted`.

        Only for settings that pass `check`, since the others do not wait for a word on any that do not. Raises
        `PeerLost`.
        """
        if self._all_ranks is not None:
            self._encoder_link(self._all_ranks, settings).give_up(Word.ABORT)

    def _render_alone(
        self, settings: RenderSettings, inputs: RenderInputs | Encoded | None, should_stop: ShouldStop
    ) -> Generator[RenderedBlock, None, None]:
        assert self._encoders is not None, "a rank alone holds the encoders"
        assert self._dit is not None, "a rank alone holds the DiT"
        total = block_count(self.config.dit, settings.frames)
        encoded = self._encoded(self._encoders, settings, inputs)
        with self.clock.denoising():
            session = self._dit.begin(settings, encoded.beginning)
        for block, kept in self._kept(encoded):
            if should_stop():
                raise RenderStopped(block=block)
            window = next(encoded.windows)
            with self.clock.denoising():
                session.replay(block, window=window, latents=kept)
        rendered = self._rendered(self._encoders, settings, encoded, behind=self._behind)
        for block in range(encoded.beginning.first_block, total):
            if should_stop():
                yield from rendered.rest()
                raise RenderStopped(block=block)
            with self.clock.sharing():
                window = next(encoded.windows)
            with self.clock.denoising():
                latents = session.make(block, window=window)
            with self.clock.sharing():
                rendered.begin(latents)
            yield from rendered.due()
        yield from rendered.rest()

    def _render_as_encoder(
        self,
        settings: RenderSettings,
        inputs: RenderInputs | Encoded | None,
        should_stop: ShouldStop,
        link: EncoderLink,
    ) -> Generator[RenderedBlock, None, None]:
        assert self._encoders is not None, "rank 0 holds the encoders"
        total = block_count(self.config.dit, settings.frames)
        try:
            encoded = self._encoded(self._encoders, settings, inputs)
            first = encoded.beginning.first_block
            link.begin(encoded.beginning, first_word=min(replayed_blocks(self.config.dit, first), default=first))
            for block, kept in self._kept(encoded):
                if should_stop():
                    raise RenderStopped(block=block)
                link.replay(next(encoded.windows), kept)
            for block in range(first, min(first + AHEAD, total)):
                self._give_word(block, should_stop, link, encoded.windows)
            rendered = self._rendered(self._encoders, settings, encoded, behind=0)  # while the DiT replays
            for block in range(first, total):
                latents = link.latents()
                if block + AHEAD < total:
                    self._give_word(block + AHEAD, should_stop, link, encoded.windows)
                rendered.begin(latents)
                yield from rendered.due()
            link.finish()
        except PeerLost:
            raise
        except RenderStopped:
            link.give_up(Word.STOP)
            raise
        except BaseException:
            link.give_up(Word.ABORT)
            raise

    def _render_as_dit(self, settings: RenderSettings, link: DiTLink) -> Generator[RenderedBlock, None, None]:
        assert self._dit is not None, "ranks from 1 on hold the DiT"
        beginning = link.beginning()
        with self.clock.denoising():
            session = self._dit.begin(settings, beginning)
        for block in replayed_blocks(self.config.dit, beginning.first_block):
            window, kept = link.window(block), link.kept_latents()
            with self.clock.denoising():
                session.replay(block, window=window, latents=kept)
        on_the_way: deque[LatentsOnTheWay] = deque()
        try:
            for block in range(beginning.first_block, block_count(self.config.dit, settings.frames)):
                window = link.window(block)
                with self.clock.denoising():
                    on_the_way.append(LatentsOnTheWay(session.make(block, window=window)))
                while len(on_the_way) > self._behind:
                    link.send_latents(on_the_way.popleft().wait())
        except (RenderStopped, RenderAborted):
            _send_all(on_the_way, link)  # rank 0 waits for every block it gave word for
            raise
        _send_all(on_the_way, link)
        yield from ()

    def _encoder_link(self, all_ranks: dist.ProcessGroup, settings: RenderSettings) -> EncoderLink:
        return EncoderLink(
            all_ranks,
            self._layout,
            PacketShapes.of(self.config.dit, self._strips(settings)),
            blocks=block_count(self.config.dit, settings.frames),
            dtype=self._packet_dtype,
        )

    def _strips(self, settings: RenderSettings) -> tuple[Strip, ...]:
        """Raises `ImpossibleLayout`."""
        return cut(self.config.dit, height=settings.height, width=settings.width, parts=self._layout.dit_size)

    def _kept(self, encoded: Encoded) -> Iterator[tuple[int, torch.Tensor]]:
        """Blocks to be replayed, and their latents."""
        if encoded.resumption is None:
            return iter(())
        blocks = replayed_blocks(self.config.dit, encoded.resumption.block)
        return zip(blocks, encoded.resumption.of(blocks), strict=True)

    def _rendered(self, encoders: Encoders, settings: RenderSettings, encoded: Encoded, *, behind: int) -> _Rendered:
        return _Rendered(
            block_count(self.config.dit, settings.frames),
            encoders.decoder(settings, resumption=encoded.resumption),
            first=encoded.beginning.first_block,
            behind=behind,
        )

    @staticmethod
    def _encoded(encoders: Encoders, settings: RenderSettings, inputs: RenderInputs | Encoded | None) -> Encoded:
        return encoders.encode(settings, inputs) if inputs is None or isinstance(inputs, RenderInputs) else inputs

    @staticmethod
    def _give_word(block: int, should_stop: ShouldStop, link: EncoderLink, windows: Iterator[torch.Tensor]) -> None:
        if should_stop():
            raise RenderStopped(block=block)
        link.go(next(windows))


class _Rendered:
    """Blocks on their way out of the decoder, of which a few are waited for later than they were begun: so a device
    that works by itself has the next block to make before anybody waits for this one."""

    def __init__(self, total: int, decoder: FrameDecoder, *, first: int, behind: int) -> None:
        """`first` is the block that the decoder is given first."""
        self._total = total
        self._decoder = decoder
        self._behind = behind
        self._on_the_way: deque[tuple[FramesOnTheWay, LatentsOnTheWay]] = deque()
        self._next_block = first

    def begin(self, latents: torch.Tensor) -> None:
        """Ask for the frames of the next block."""
        self._on_the_way.append((self._decoder.begin(latents), LatentsOnTheWay(latents)))

    def due(self) -> Iterator[RenderedBlock]:
        """Blocks that may be waited for now."""
        while len(self._on_the_way) > self._behind:
            yield self._next()

    def rest(self) -> Iterator[RenderedBlock]:
        """All that were begun."""
        while self._on_the_way:
            yield self._next()

    def _next(self) -> RenderedBlock:
        frames, latents = self._on_the_way.popleft()
        block = self._next_block
        self._next_block += 1
        return RenderedBlock(index=block, blocks_total=self._total, frames=frames.wait(), latents=latents.wait())


def _send_all(on_the_way: deque[LatentsOnTheWay], link: DiTLink) -> None:
    while on_the_way:
        link.send_latents(on_the_way.popleft().wait())
    link.finish()
