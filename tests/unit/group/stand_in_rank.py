"""A rank whose network is a stand-in: real processes, pipes and signals, without torch's ten seconds.

The ranks keep step as the real ones do, block by block, over a socket at the rendezvous, so a stopped or dead rank
stalls or breaks the others. The prompt says what goes wrong: `rank=1 block=2 do=raise` (`attempt=1`: only in that
one), and with the file, `file=2.0` (seconds it takes) `file_do=hang`; words in any order. `until=PATH` and
`file_until=PATH` end the slowness: once that file is there, the rest is done at once. `mark=PATH` makes that file when
it goes wrong. What was prepared leaves a file beside the video.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

from worker.group.errors import GroupRefused, RenderCanceled, RenderInterrupted, RenderRefused
from worker.group.messages import DeviceReport, Draw, Launch
from worker.group.rank import main
from worker.group.request import OnProgress, RenderPhase, RenderProgress, RenderRequest, RenderResult, ShouldCancel
from worker.pipeline.dit_clock import DiTSeconds, OnDiTWork

_LOOK_S = 0.02


def orders_of(request: RenderRequest) -> dict[str, str]:
    return dict(word.split("=") for word in request.prompt.split() if "=" in word)


class FileStandIn:
    """The file of a video: written after `file` seconds or when `file_until` is there, unless it is to go wrong."""

    def __init__(self, request: RenderRequest, *, blocks: int) -> None:
        self._request = request
        self._blocks = blocks
        self._aborted = threading.Event()

    def finish(self, *, on_progress: OnProgress) -> RenderResult:
        orders = orders_of(self._request)
        on_progress(RenderProgress(RenderPhase.MUXING, self._blocks, self._blocks))
        seconds = 600.0 if orders.get("file_do") == "hang" else float(orders.get("file", "0"))
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at and not _may_hurry(orders.get("file_until")):
            if self._aborted.wait(min(_LOOK_S, max(0.0, ends_at - time.monotonic()))):
                raise RenderCanceled
        if self._aborted.is_set():
            raise RenderCanceled
        match orders.get("file_do"):
            case "interrupt":
                raise RenderInterrupted("node_disk", "no space left for the file")
            case "raise":
                raise ZeroDivisionError("nobody thought of this")
        self.write()
        return RenderResult(
            video=self._request.video, frames=self._request.frames, blocks=self._blocks, gpu_seconds=1.0,
            ms_per_block=20.0, encoding_s=0.0, rendering_s=1.0, muxing_s=0.0,
        )  # fmt: skip

    def write(self) -> None:
        self._request.video.write_bytes(f"{os.getpid()}".encode())

    def abort(self) -> None:
        self._aborted.set()


class StandIn:
    def __init__(self, launch: Launch) -> None:
        if launch.preset == "impossible":
            raise GroupRefused("impossible_layout", f"{launch.world_size} ranks do not fit; possible: 1, 2, 3")
        if launch.preset == "broken":
            raise RuntimeError("the weights are torn")
        if launch.preset == "slow":
            time.sleep(60)
        self.rank = launch.rank
        self.others = _meet(launch)
        self.prepared: dict[str, RenderRequest] = {}
        self.holds_dit = launch.world_size == 1 or launch.rank > 0
        self.dit = DiTSeconds()
        self.free_since = time.monotonic()

    def device(self) -> DeviceReport:
        return DeviceReport(name="stand-in", memory_total_bytes=2, memory_used_bytes=1)

    def prepare(self, request: RenderRequest) -> None:
        self.prepared[request.name] = request
        with suppress(FileNotFoundError):  # nobody wants it any more
            request.video.with_name("prepared").touch()

    def forget(self, name: str) -> None:
        request = self.prepared.pop(name, None)
        if request is not None:
            request.video.with_name("prepared").unlink(missing_ok=True)

    def draw(
        self, draw: Draw, *, on_progress: OnProgress, on_dit: OnDiTWork, should_stop: ShouldCancel
    ) -> FileStandIn | None:
        request = draw.request
        if orders_of(request).get("child"):
            subprocess.Popen(["sleep", "600"])
        self.prepared.pop(request.name, None)
        between = max(0.0, time.monotonic() - max(self.free_since, draw.wanted_since))
        self.dit = replace(self.dit, idle_between=self.dit.idle_between + between)
        try:
            blocks = self._draw(request, on_progress, should_stop)
        except (RenderRefused, RenderInterrupted):
            for other in self.others:
                other.send("abort")
            raise
        finally:
            self.free_since = time.monotonic()
            if self.holds_dit:
                on_dit(self.dit)
        return None if self.rank != 0 or blocks is None else self.file(request, blocks)

    def _draw(self, request: RenderRequest, on_progress: OnProgress, should_stop: ShouldCancel) -> int | None:
        """The blocks drawn; None when rank 0 gave up."""
        orders = orders_of(request)
        blocks = self.blocks(request)
        for block in range(self.first_block(request), blocks):
            word = self._keep_step("stop" if self.rank == 0 and should_stop() else "go")
            if word == "stop":
                raise RenderCanceled
            if word == "abort":
                return None
            if (
                orders.get("do")
                and int(orders.get("rank", "0")) == self.rank
                and int(orders.get("block", "0")) == block
                and orders.get("attempt", _attempt_of(request)) == _attempt_of(request)
            ):
                if "mark" in orders:
                    Path(orders["mark"]).touch()
                _go_wrong(orders["do"])
            seconds = 0.0 if _may_hurry(orders.get("until")) else float(orders.get("seconds", "0.02"))
            time.sleep(seconds)
            self.dit = replace(self.dit, busy=self.dit.busy + seconds)
            self.draw_block(request, block)
            if self.rank == 0:
                on_progress(RenderProgress(RenderPhase.RENDERING, blocks_done=block + 1, blocks_total=blocks))
        return blocks

    def blocks(self, request: RenderRequest) -> int:
        return int(orders_of(request).get("blocks", "5"))

    def first_block(self, request: RenderRequest) -> int:
        return 0

    def draw_block(self, request: RenderRequest, block: int) -> None:
        pass

    def file(self, request: RenderRequest, blocks: int) -> FileStandIn:
        return FileStandIn(request, blocks=blocks)

    def _keep_step(self, word: str) -> str:
        if self.rank != 0:
            word = self.others[0].recv()
            self.others[0].send(None)
            return word
        for other in self.others:
            other.send(word)
        for other in self.others:
            other.recv()
        return word


def _may_hurry(until: str | None) -> bool:
    return until is not None and Path(until).exists()


def _attempt_of(request: RenderRequest) -> str:
    return request.name.rpartition(".")[2]


def _go_wrong(how: str) -> None:
    match how:
        case "raise":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        case "memory":
            raise MemoryError("out of memory")
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "hang":
            time.sleep(600)
        case "refuse":
            raise RenderRefused("invalid_render", "this picture cannot be rendered")
        case "interrupt":
            raise RenderInterrupted("disk_full", "no space left on the node")


def _meet(launch: Launch) -> list[Connection]:
    address = str(launch.rendezvous)
    if launch.rank == 0:
        with Listener(address) as listener:
            return [listener.accept() for _ in range(1, launch.world_size)]
    deadline = time.monotonic() + 20
    while True:
        try:
            return [Client(address)]
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:], open_renderer=StandIn))
