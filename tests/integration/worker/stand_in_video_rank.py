"""A rank with a stand-in network that writes a real MP4: what it draws is one colour per block.

See `tests.unit.group.stand_in_rank` for the orders it takes from the prompt.
"""

import os
import sys

import numpy as np

from tests.unit.group.stand_in_rank import StandIn
from worker.group.messages import Launch
from worker.group.rank import main
from worker.group.request import OnProgress, RenderRequest, RenderResult, ShouldCancel
from worker.media.mp4 import Mp4Writer

FRAMES_PER_BLOCK = 8


class VideoStandIn(StandIn):
    def __init__(self, launch: Launch) -> None:
        super().__init__(launch)
        self._video: Mp4Writer | None = None

    def render(
        self, request: RenderRequest, *, on_progress: OnProgress, should_stop: ShouldCancel
    ) -> RenderResult | None:
        if self.rank != 0:
            return super().render(request, on_progress=on_progress, should_stop=should_stop)
        with Mp4Writer(
            request.video, width=request.width, height=request.height, output_fps=request.output_fps,
            sound=request.sound, duration_s=request.duration_s,
        ) as self._video:  # fmt: skip
            return super().render(request, on_progress=on_progress, should_stop=should_stop)

    def blocks(self, request: RenderRequest, orders: dict[str, str]) -> int:
        return -(-request.frames // FRAMES_PER_BLOCK)

    def draw(self, request: RenderRequest, block: int) -> None:
        if self.rank == 0:
            assert self._video is not None
            self._video.write(np.full((FRAMES_PER_BLOCK, request.height, request.width, 3), 40 * block % 256, np.uint8))

    def write(self, request: RenderRequest) -> None:
        assert self._video is not None
        self._video.finish()


if __name__ == "__main__":
    os._exit(main(sys.argv[1:], open_renderer=VideoStandIn))
