"""A rank with a stand-in network that writes a real MP4: what it draws is one colour per block.

A long video is kept and goes on as a real one; its latents are bytes that nobody looks back at, and its log tells where
each attempt began and was left. See `tests.unit.group.stand_in_rank` for the orders it takes from the prompt.
"""

import logging
import os
import sys

import numpy as np

from tests.unit.group.stand_in_rank import FileStandIn, StandIn
from worker.group.errors import RenderInterrupted
from worker.group.messages import Draw
from worker.group.rank import main
from worker.group.request import OnProgress, RenderRequest, RenderResult, ShouldCancel
from worker.media.mp4 import Mp4Writer
from worker.media.segments import SEGMENT_FRAMES, latents_name
from worker.pipeline.dit_clock import OnDiTWork

FRAMES_PER_BLOCK = 8
BLOCKS_PER_PIECE = SEGMENT_FRAMES // FRAMES_PER_BLOCK

log = logging.getLogger(__name__)


class VideoFileStandIn(FileStandIn):
    def __init__(self, request: RenderRequest, *, blocks: int, writer: Mp4Writer) -> None:
        super().__init__(request, blocks=blocks)
        self._writer = writer

    def finish(self, *, on_progress: OnProgress) -> RenderResult:
        try:
            return super().finish(on_progress=on_progress)
        finally:
            self._writer.abort()

    def write(self) -> None:
        self._writer.finish()


class VideoStandIn(StandIn):
    def draw(
        self, draw: Draw, *, on_progress: OnProgress, on_dit: OnDiTWork, should_stop: ShouldCancel
    ) -> FileStandIn | None:
        if self.rank != 0:
            return super().draw(draw, on_progress=on_progress, on_dit=on_dit, should_stop=should_stop)
        request = draw.request
        self.next_block = self.first_block(request)
        if self.next_block:
            log.info("%s goes on at block %d", request.name, self.next_block)
        self.writer = Mp4Writer(
            request.video, width=request.width, height=request.height, output_fps=request.output_fps,
            sound=request.sound, duration_s=request.duration_s, segments=request.segments,
        )  # fmt: skip
        self.writer.__enter__()
        try:
            return super().draw(draw, on_progress=on_progress, on_dit=on_dit, should_stop=should_stop)
        except BaseException:
            log.info("%s is left at block %d", request.name, self.next_block)
            self.writer.abort()
            raise

    def first_block(self, request: RenderRequest) -> int:
        return 0 if request.segments is None else BLOCKS_PER_PIECE * request.segments.made

    def blocks(self, request: RenderRequest) -> int:
        return -(-request.frames // FRAMES_PER_BLOCK)

    def draw_block(self, request: RenderRequest, block: int) -> None:
        if self.rank != 0:
            return
        self.next_block = block + 1
        piece, is_inside = divmod(self.next_block, BLOCKS_PER_PIECE)
        if request.segments is not None and not is_inside:
            try:
                (request.segments.directory / latents_name(piece - 1)).write_bytes(os.urandom(1000))
            except FileNotFoundError as error:  # removed, since nobody wants the video any more
                raise RenderInterrupted("node_disk", "the latents could not be kept") from error
        self.writer.write(np.full((FRAMES_PER_BLOCK, request.height, request.width, 3), 40 * block % 256, np.uint8))

    def file(self, request: RenderRequest, blocks: int) -> FileStandIn:
        return VideoFileStandIn(request, blocks=blocks, writer=self.writer)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:], open_renderer=VideoStandIn))
