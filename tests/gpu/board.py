"""The clock and the power of a GPU while something runs on it. Reads NVML; sets nothing."""

import ctypes
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

NVML = "libnvidia-ml.so.1"
SM_CLOCK = 1
SAMPLE_EVERY_S = 0.02


@dataclass
class Samples:
    """What was read so far. Power is what the driver reports: a mean over some tenths of a second."""

    megahertz: list[int] = field(default_factory=list)
    watts: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.watts:
            return "clock and power unknown"
        return f"{statistics.median(self.megahertz):.0f} MHz, {max(self.watts):.0f} W"


@contextmanager
def sampled(device: torch.device) -> Iterator[Samples]:
    """Samples of this GPU, taken while the block runs; none where the machine has no NVML."""
    samples = Samples()
    board = _open(device)
    if board is None:
        yield samples
        return
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(SAMPLE_EVERY_S):
            megahertz, watts = board.read()
            samples.megahertz.append(megahertz)
            samples.watts.append(watts)

    watcher = threading.Thread(target=watch, name="board")
    watcher.start()
    try:
        yield samples
    finally:
        stop.set()
        watcher.join()
        board.close()


class _Board:
    def __init__(self, nvml: ctypes.CDLL, handle: ctypes.c_void_p) -> None:
        self._nvml = nvml
        self._handle = handle

    def read(self) -> tuple[int, float]:
        """MHz and watts."""
        megahertz, milliwatts = ctypes.c_uint(), ctypes.c_uint()
        self._nvml.nvmlDeviceGetClockInfo(self._handle, SM_CLOCK, ctypes.byref(megahertz))
        self._nvml.nvmlDeviceGetPowerUsage(self._handle, ctypes.byref(milliwatts))
        return megahertz.value, milliwatts.value / 1000

    def close(self) -> None:
        self._nvml.nvmlShutdown()


def _open(device: torch.device) -> _Board | None:
    try:
        nvml = ctypes.CDLL(NVML)
    except OSError:
        return None
    handle = ctypes.c_void_p()
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)):
        return None
    return _Board(nvml, handle)
