"""A rank of a measurement takes its place: device, threads, the group of all ranks, and what it finds there.

Knows PyTorch's devices and process groups; not what is measured. The only code of the bench that changes global state
of a process, and each process is one rank of one measurement.
"""

from __future__ import annotations

import gc
import importlib.metadata
import platform
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from worker.bench.figures import Versions
from worker.bench.ranks import RENDEZVOUS_TIMEOUT_S, CannotMeasure, Place
from worker.pipeline.checkpoint import CheckpointError
from worker.pipeline.errors import ImpossibleLayout, UnknownPreset, UnusablePrecision

GIB = 2**30


@contextmanager
def taken(place: Place) -> Iterator[torch.device]:
    """The device of this rank, with the group of all ranks around it. What cannot be is raised as `CannotMeasure`."""
    device = torch.device(place.device)
    if place.threads is not None:
        torch.set_num_threads(place.threads)
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            raise CannotMeasure(f"there is no {place.device}; PyTorch sees {torch.cuda.device_count()} GPUs")
        torch.cuda.set_device(device)
    if place.world_size > 1:
        dist.init_process_group(
            "gloo",
            init_method=place.rendezvous.as_uri(),
            rank=place.rank,
            world_size=place.world_size,
            timeout=timedelta(seconds=RENDEZVOUS_TIMEOUT_S),
        )
    try:
        yield device
    except (UnusablePrecision, ImpossibleLayout, UnknownPreset, CheckpointError) as error:
        raise CannotMeasure(str(error)) from error


def together(place: Place) -> None:
    """Wait until all ranks are here."""
    if place.world_size > 1:
        dist.barrier()


def gpu_uuid(device: torch.device) -> str | None:
    """As nvidia-smi has it, but for its prefix; None on a CPU."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else None


class PeakMemory:
    """The most memory that was in use, but for what is used in a `left_out` block."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._most = 0.0

    def gib(self) -> float:
        """Allocated on a GPU since this rank began; on a CPU the resident size of the whole process."""
        self._most = max(self._most, self._now())
        return self._most

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """What is allocated within and let go at its end does not count. Resident memory of a CPU always counts."""
        self.gib()
        try:
            yield
        finally:
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(self._device)

    def _now(self) -> float:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / GIB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def versions(device: torch.device, *, attention: tuple[str, ...] = ()) -> Versions:
    """Of everything that decides how fast this is."""
    on_gpu = device.type == "cuda"
    return Versions(
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda if on_gpu else None,
        cudnn=torch.backends.cudnn.version() if on_gpu else None,  # type: ignore[no-untyped-call]
        triton=_version("triton"),
        driver=_driver() if on_gpu else None,
        device=torch.cuda.get_device_name(device) if on_gpu else f"CPU, {torch.get_num_threads()} threads",
        attention=attention,
    )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    """Of the kernel module, from where it says so itself."""
    try:
        with Path("/proc/driver/nvidia/version").open() as file:
            return file.readline().strip() or None
    except OSError:
        return None
