"""A rank with a stand-in network that writes a real MP4: what it draws is one colour per block.

See `tests.unit.group.stand_in_rank` for the orders it takes from the prompt.
"""

import os
import sys

import numpy as np

from tests.unit.group.stand_in_rank import FileStandIn, StandIn
from worker.group.messages import Draw
from worker.group.rank import main
from worker.group.request import OnProgress, RenderRequest, RenderResult, ShouldCancel
from worker.media.mp4 import Mp4Writer
from worker.pipeline.dit_clock import OnDiTWork

FRAMES_PER_BLOCK = 8


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
        self.writer = Mp4Writer(
            request.video, width=request.width, height=request.height, output_fps=request.output_fps,
            sound=request.sound, duration_s=request.duration_s,
        )  # fmt: skip
        self.writer.__enter__()
        try:
            return super().draw(draw, on_progress=on_progress, on_dit=on_dit, should_stop=should_stop)
        except BaseException:
            self.writer.abort()
            raise

    def blocks(self, request: RenderRequest) -> int:
        return -(-request.frames // FRAMES_PER_BLOCK)

    def draw_block(self, request: RenderRequest, block: int) -> None:
        if self.rank == 0:
            self.writer.write(np.full((FRAMES_PER_BLOCK, request.height, request.width, 3), 40 * block % 256, np.uint8))

    def file(self, request: RenderRequest, blocks: int) -> FileStandIn:
        return VideoFileStandIn(request, blocks=blocks, writer=self.writer)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:], open_renderer=VideoStandIn))
