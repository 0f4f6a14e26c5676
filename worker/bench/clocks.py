"""Clock, power, temperature and memory of the GPUs while something is measured, as nvidia-smi says.

Knows that program's output and nothing of what runs. Reads only; no setting of a GPU is ever changed. Where there is no
nvidia-smi there are no samples.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import statistics
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import IO, Self

from worker.bench.figures import Clocks

EVERY_MS = 200
FIELDS = "timestamp,uuid,clocks.sm,power.draw,temperature.gpu,memory.used"
END_TIMEOUT_S = 10.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One GPU at one moment."""

    at: float
    """Seconds since 1970, by the clock of this machine."""
    gpu: str
    sm_mhz: float
    power_w: float
    temperature_c: float
    used_mib: float


class ClockSampler:
    """`with ClockSampler() as sampler:` samples until it is left; `sampler.during(…)` sums some of them up."""

    def __init__(self, program: str | None = None) -> None:
        """`program` stands for nvidia-smi, which is looked for otherwise."""
        self._program = program or shutil.which("nvidia-smi")
        self._process: subprocess.Popen[bytes] | None = None
        self._samples: list[Sample] = []

    def __enter__(self) -> Self:
        if self._program is not None:
            ours, theirs = os.openpty()  # to a pipe it may keep its lines back for seconds
            self._process = subprocess.Popen(
                [self._program, f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits", "-lms", str(EVERY_MS)],
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=subprocess.DEVNULL,
            )
            os.close(theirs)
            self._reader = threading.Thread(target=self._read, args=(ours,), name="clocks of the GPUs", daemon=True)
            self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=END_TIMEOUT_S)
        self._reader.join(timeout=END_TIMEOUT_S)

    def during(self, began: float, ended: float, *, gpus: Sequence[str]) -> tuple[Clocks, ...]:
        """What these GPUs did between two moments; those without a sample are left out."""
        within = [sample for sample in list(self._samples) if began <= sample.at <= ended]
        of_each = ((gpu, [sample for sample in within if same_gpu(sample.gpu, gpu)]) for gpu in gpus)
        return tuple(_summed_up(gpu, samples) for gpu, samples in of_each if samples)

    def _read(self, terminal: int) -> None:
        unreadable = 0
        with os.fdopen(terminal, encoding="utf-8", errors="replace") as lines:
            for line in _lines(lines):
                try:
                    self._samples.append(parse(line))
                except ValueError:
                    unreadable += 1
        if unreadable:
            log.warning("%d lines of nvidia-smi could not be read", unreadable)


def _lines(terminal: IO[str]) -> Iterator[str]:
    """Until the program at the other end is gone, which a terminal tells as an error."""
    while True:
        try:
            line = terminal.readline()
        except OSError as error:
            if error.errno == errno.EIO:
                return
            raise
        if not line:
            return
        yield line


def parse(line: str) -> Sample:
    """A line of nvidia-smi's CSV in the order of `FIELDS`. Raises ValueError, as for `[N/A]`."""
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != len(FIELDS.split(",")):
        raise ValueError(f"{len(fields)} fields: {line!r}")
    moment = datetime.strptime(fields[0], "%Y/%m/%d %H:%M:%S.%f").astimezone()
    return Sample(moment.timestamp(), fields[1], *(float(field) for field in fields[2:]))


def same_gpu(one: str, other: str) -> bool:
    """Whether two UUIDs name one GPU; PyTorch leaves the prefix out."""
    return one.removeprefix("GPU-").lower() == other.removeprefix("GPU-").lower()


def _summed_up(gpu: str, samples: Sequence[Sample]) -> Clocks:
    return Clocks(
        gpu=gpu,
        samples=len(samples),
        sm_mhz_median=statistics.median(sample.sm_mhz for sample in samples),
        sm_mhz_least=min(sample.sm_mhz for sample in samples),
        power_w_mean=statistics.fmean(sample.power_w for sample in samples),
        temperature_c_most=max(sample.temperature_c for sample in samples),
        used_gib_most=max(sample.used_mib for sample in samples) / 1024,
    )
