"""What rank 0 needs before it can draw a video, made in a thread: its inputs encoded, and the writer of its file.

Knows the files at both ends of one render and who encodes them; nothing of ranks or of drawing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worker.group.kept_latents import frames_known, read_resumption
from worker.group.request import RenderRequest
from worker.media.mp4 import Mp4Writer
from worker.media.speech import SpeechFile
from worker.pipeline.errors import UnusableResumption
from worker.pipeline.resumption import Resumption
from worker.pipeline.settings import RenderInputs, RenderSettings
from worker.pipeline.sound import ReadSamples, Samples

if TYPE_CHECKING:
    from worker.pipeline.encoders import Encoded

POLL_S = 0.1

log = logging.getLogger(__name__)

Encode = Callable[[RenderSettings, RenderInputs], "Encoded"]


@dataclass(frozen=True)
class Prepared:
    """Ready to be drawn. Whoever has it closes `files`."""

    encoded: Encoded
    frames_known: int
    """So many of the first frames that are drawn are in the file already."""
    writer: Mp4Writer
    files: ExitStack


class Preparation:
    """Begins when it is made. Ends with `take` or with `drop`."""

    def __init__(self, request: RenderRequest, *, encode: Encode) -> None:
        self.request = request
        self._encode = encode
        self._lock = threading.Lock()
        self._is_dropped = False
        self._prepared: Prepared | None = None
        self._error: BaseException | None = None
        self._moved_at = time.monotonic()
        self._done = threading.Event()
        threading.Thread(target=self._run, name=f"prepare {request.name}", daemon=True).start()

    def take(self, *, on_moved: Callable[[], None], may_go_on: Callable[[], None]) -> Prepared:
        """Wait for it. Raises what went wrong with the files, and what `may_go_on` raises, which is asked meanwhile.

        `on_moved` is called when some of the sound was read or passed over since the last time: an hour of it takes a
        while.
        """
        told_at = self._moved_at
        while not self._done.wait(POLL_S):
            if self._moved_at != told_at:
                told_at = self._moved_at
                on_moved()
            may_go_on()
        if self._error is not None:
            raise self._error
        assert self._prepared is not None, "done without an error"
        return self._prepared

    def drop(self) -> None:
        """It is not wanted any more: close its files, as soon as it is done. Does not wait for that."""
        with self._lock:
            self._is_dropped = True
            prepared, self._prepared = self._prepared, None
        if prepared is not None:
            threading.Thread(target=prepared.files.close, name=f"drop {self.request.name}", daemon=True).start()

    def _run(self) -> None:
        try:
            prepared = self._prepare()
        except BaseException as error:  # noqa: BLE001 - raised by `take`, in the thread that draws
            self._error = error
        else:
            with self._lock:
                is_dropped = self._is_dropped
                self._prepared = None if is_dropped else prepared
            if is_dropped:
                prepared.files.close()
        self._done.set()

    def _prepare(self) -> Prepared:
        request = self.request
        settings = settings_of(request)
        with ExitStack() as stack:
            speech = stack.enter_context(SpeechFile(request.speech))
            inputs = RenderInputs(
                read_samples=self._noticed(speech.read),
                total_samples=speech.samples,
                image=_pixels(request.picture),
                resumption=_resumption(request),
                on_passed=self._notice,
            )
            encoded = self._encoded(settings, inputs)
            segments, known = request.segments, 0
            if segments is not None and encoded.resumption is None:
                segments = replace(segments, made=0)
            elif segments is not None and encoded.resumption is not None:
                known = frames_known(encoded.resumption, segments)
            writer = stack.enter_context(
                Mp4Writer(
                    request.video,
                    width=request.width,
                    height=request.height,
                    output_fps=request.output_fps,
                    sound=request.sound,
                    duration_s=request.duration_s,
                    segments=segments,
                )
            )
            return Prepared(encoded=encoded, frames_known=known, writer=writer, files=stack.pop_all())

    def _encoded(self, settings: RenderSettings, inputs: RenderInputs) -> Encoded:
        try:
            return self._encode(settings, inputs)
        except UnusableResumption as error:  # said before any of the sound is read
            log.warning("%s is drawn from the start: %s", self.request.name, error)
            return self._encode(settings, replace(inputs, resumption=None))

    def _noticed(self, read: ReadSamples) -> ReadSamples:
        def read_and_notice(samples: int) -> Samples:
            self._notice()
            return read(samples)

        return read_and_notice

    def _notice(self) -> None:
        self._moved_at = time.monotonic()


def settings_of(request: RenderRequest) -> RenderSettings:
    """Raises `InvalidRender`."""
    return RenderSettings(
        height=request.height,
        width=request.width,
        frames=request.frames,
        seed=request.seed,
        denoising_steps=request.denoising_steps,
        prompt=request.prompt,
        audio_mode=request.audio_mode,
        sink_rotation=request.sink_rotation,
    )


def _resumption(request: RenderRequest) -> Resumption | None:
    if request.segments is None or not request.segments.made:
        return None
    return read_resumption(request.segments)


def _pixels(picture: Path) -> NDArray[np.uint8]:
    with Image.open(picture, formats=["PNG"]) as image:
        return np.array(image.convert("RGB"))
