"""What a group leaves behind, and how long it may be idle: `python -m tests.gpu.group --help`.

Launches real ranks, renders, lets them be idle for many times the timeout of their collectives, and renders again; the
file must be the same. Then, for each way to fail, strikes a rank in mid-render: the group must be down within five
seconds, with no process and no memory of a GPU left, and the next group must make the same file. Exits with 1 when one
of these is not so. Knows processes and `nvidia-smi`; does not import torch.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from tests.media_files import sine, write_wav
from worker.group.errors import GroupFailed
from worker.group.group import Group, GroupSettings
from worker.group.request import RenderPhase, RenderProgress, RenderRequest

CHECK_EVERY_S = 5.0
DOWN_WITHIN_S = 5.0
MEMORY_SLACK_MIB = 64
"""Of what others have on the same GPU."""
SECONDS = 6.0
STRIKES = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "end": signal.SIGTERM}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--collective-timeout", type=float, default=20.0, help="seconds")
    parser.add_argument("--idle", type=float, default=120.0, help="seconds")
    parser.add_argument("--ways", nargs="*", choices=list(STRIKES), default=list(STRIKES))
    options = parser.parse_args()
    settings = GroupSettings(
        preset=options.preset,
        ranks=options.ranks,
        weights=options.weights,
        device=options.device,
        collective_timeout_s=options.collective_timeout,
    )
    with tempfile.TemporaryDirectory() as directory:
        request = _request(Path(directory), side=options.side)
        used_before = _memory_used_mib()
        with Group(settings) as group:
            wanted = _render(group, request)
            is_well = _idles(group, request, wanted=wanted, idle_s=options.idle)
        for way in options.ways:
            is_well &= _fails(settings, request, way, wanted=wanted, used_before=used_before)
    print(f"GROUP {options.preset} of {options.ranks}: {'good' if is_well else 'NOT GOOD'}")
    return 0 if is_well else 1


def _idles(group: Group, request: RenderRequest, *, wanted: str, idle_s: float) -> bool:
    pids = group.pids
    ends_at = time.monotonic() + idle_s
    while time.monotonic() < ends_at:
        group.check()
        time.sleep(CHECK_EVERY_S)
    is_same = _render(group, request) == wanted and group.pids == pids
    timeouts = idle_s / group.settings.collective_timeout_s
    print(f"idle for {idle_s:g} s, {timeouts:.1f} times the timeout of its collectives: {_word(is_same)}", flush=True)
    return is_same


def _fails(
    settings: GroupSettings, request: RenderRequest, way: str, *, wanted: str, used_before: list[int] | None
) -> bool:
    """The last rank is struck at its third block."""
    with Group(settings) as group:
        pids = group.pids
        struck_at: list[float] = []
        used = _memory_used_mib()

        def strike(progress: RenderProgress) -> None:
            if progress.phase is RenderPhase.RENDERING and progress.blocks_done == 3 and not struck_at:
                struck_at.append(time.monotonic())
                os.kill(pids[-1], STRIKES[way])

        try:
            group.render(request, on_progress=strike, should_cancel=lambda: False)
            return False
        except GroupFailed as failure:
            down_s = time.monotonic() - struck_at[0]
            left = [pid for pid in pids if _has_processes(pid)]
            said = failure
    used_after = _memory_used_mib()
    is_free = used_after is None or used_before is None or _is_free(used_after, used_before)
    is_well = down_s < DOWN_WITHIN_S and not left and is_free
    print(
        f"{way}: down after {down_s:.2f} s ({said}); {len(left)} process groups left; memory before {used_before}, "
        f"in use {used}, after {used_after} MiB: {_word(is_well)}",
        flush=True,
    )
    with Group(settings) as group:
        return is_well and _render(group, request) == wanted


def _has_processes(group: int) -> bool:
    """The dead that nobody has reaped yet, such as an encoder of a killed rank, do not count."""
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                return True
    return False


def _is_free(used: list[int], before: list[int]) -> bool:
    return all(now <= then + MEMORY_SLACK_MIB for now, then in zip(used, before, strict=True))


def _render(group: Group, request: RenderRequest) -> str:
    """The hash of the file."""
    asked = replace(request, name=f"{request.name} {time.monotonic()}")
    result = group.render(asked, on_progress=lambda _: None, should_cancel=threading.Event().is_set)
    return hashlib.sha256(result.video.read_bytes()).hexdigest()


def _request(directory: Path, *, side: int) -> RenderRequest:
    write_wav(directory / "sound.wav", sine(SECONDS, rate=16_000), rate=16_000)
    drawn = np.random.default_rng(1).standard_normal(int(16_000 * SECONDS))
    (0.1 * drawn).astype("<f4").tofile(directory / "speech.f32")
    Image.new("RGB", (side, side), "grey").save(directory / "portrait.png")
    return RenderRequest(
        name="group", speech=directory / "speech.f32", picture=directory / "portrait.png",
        sound=directory / "sound.wav", video=directory / "video.mp4", prompt="a person speaks", seed=1, width=side,
        height=side, frames=int(16 * SECONDS), output_fps=16, duration_s=SECONDS, denoising_steps=2,
    )  # fmt: skip


def _memory_used_mib() -> list[int] | None:
    """Of each GPU of this machine; None where there is none."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    return [int(line) for line in answer.stdout.split()]


def _word(is_well: bool) -> str:
    return "good" if is_well else "NOT GOOD"


if __name__ == "__main__":
    sys.exit(main())
