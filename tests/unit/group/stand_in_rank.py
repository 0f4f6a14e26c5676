"""A rank whose network is a stand-in: real processes, pipes and signals, without torch's ten seconds.

The ranks keep step as the real ones do, block by block, over a socket at the rendezvous, so a stopped or dead rank
stalls or breaks the others. The prompt says what goes wrong: `rank=1 block=2 do=raise`, words in any order.
"""

import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Client, Connection, Listener

from worker.group.errors import GroupRefused, RenderCanceled, RenderInterrupted, RenderRefused
from worker.group.messages import DeviceReport, Launch
from worker.group.rank import main
from worker.group.request import OnProgress, RenderPhase, RenderProgress, RenderRequest, RenderResult, ShouldCancel


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

    def device(self) -> DeviceReport:
        return DeviceReport(name="stand-in", memory_total_bytes=2, memory_used_bytes=1)

    def render(
        self, request: RenderRequest, *, on_progress: OnProgress, should_stop: ShouldCancel
    ) -> RenderResult | None:
        orders = dict(word.split("=") for word in request.prompt.split() if "=" in word)
        if orders.get("child"):
            subprocess.Popen(["sleep", "600"])
        try:
            return self._draw(request, orders, on_progress, should_stop)
        except (RenderRefused, RenderInterrupted):
            for other in self.others:
                other.send("abort")
            raise

    def _draw(
        self, request: RenderRequest, orders: dict[str, str], on_progress: OnProgress, should_stop: ShouldCancel
    ) -> RenderResult | None:
        blocks = self.blocks(request, orders)
        for block in range(blocks):
            word = self._keep_step("stop" if self.rank == 0 and should_stop() else "go")
            if word == "stop":
                raise RenderCanceled
            if word == "abort":
                return None
            if (
                orders.get("do")
                and int(orders.get("rank", "0")) == self.rank
                and int(orders.get("block", "0")) == block
            ):
                _go_wrong(orders["do"])
            time.sleep(float(orders.get("seconds", "0.02")))
            self.draw(request, block)
            if self.rank == 0:
                on_progress(RenderProgress(RenderPhase.RENDERING, blocks_done=block + 1, blocks_total=blocks))
        if self.rank != 0:
            return None
        self.write(request)
        return RenderResult(
            video=request.video, frames=request.frames, blocks=blocks, gpu_seconds=1.0, ms_per_block=20.0,
            encoding_s=0.0, rendering_s=1.0, muxing_s=0.0,
        )  # fmt: skip

    def blocks(self, request: RenderRequest, orders: dict[str, str]) -> int:
        return int(orders.get("blocks", "5"))

    def draw(self, request: RenderRequest, block: int) -> None:
        pass

    def write(self, request: RenderRequest) -> None:
        request.video.write_bytes(f"{os.getpid()}".encode())

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
