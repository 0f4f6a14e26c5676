"""The GPUs that PyTorch will find here, asked of the driver without the seconds of importing PyTorch.

Knows `nvidia-smi` and CUDA_VISIBLE_DEVICES; nothing of what will run on them.
"""

from __future__ import annotations

import csv
import logging
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

QUERY = "name,uuid,memory.total,compute_cap"
QUERY_TIMEOUT_S = 30.0
MIB = 2**20

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    index: int
    """As PyTorch counts them: among the visible ones."""
    name: str
    memory_bytes: int | None
    """None: the driver does not tell, as of a part of a GPU."""
    capability: tuple[int, int] | None
    """CUDA compute capability; None as above."""


def visible_gpus(environment: Mapping[str, str] | None = None) -> tuple[Gpu, ...]:
    """In PyTorch's order; none where the driver is missing or does not answer, which is logged.

    Needs CUDA_DEVICE_ORDER=PCI_BUS_ID for GPUs of several kinds, which is how ranks are started.
    """
    nvidia_smi = shutil.which("nvidia-smi")
    if nvidia_smi is None:
        return ()
    query = [nvidia_smi, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        log.warning("nvidia-smi does not answer within %g s; going on without GPUs", QUERY_TIMEOUT_S)
        return ()
    if answer.returncode != 0:
        log.warning("nvidia-smi found no GPU: %s", (answer.stderr or answer.stdout).strip())
        return ()
    environment = os.environ if environment is None else environment
    return _chosen(_listed(answer.stdout), environment.get("CUDA_VISIBLE_DEVICES"))


def _listed(answer: str) -> list[tuple[str, Gpu]]:
    """With the UUID of each."""
    found = []
    for index, row in enumerate(csv.reader(answer.splitlines(), skipinitialspace=True)):
        name, uuid, memory, capability = (field.strip() for field in row)
        found.append((uuid, Gpu(index, name, _mebibytes(memory), _capability(capability))))
    return found


def _chosen(there: Sequence[tuple[str, Gpu]], asked_for: str | None) -> tuple[Gpu, ...]:
    """Those that CUDA_VISIBLE_DEVICES names, in its order; as in CUDA, a name that means nothing ends the list."""
    if asked_for is None:
        return tuple(gpu for _, gpu in there)
    chosen: list[Gpu] = []
    for one in (name.strip() for name in asked_for.split(",")):
        found = _named(there, one)
        if found is None:
            break
        chosen.append(Gpu(len(chosen), found.name, found.memory_bytes, found.capability))
    return tuple(chosen)


def _named(there: Sequence[tuple[str, Gpu]], name: str) -> Gpu | None:
    if name.isdecimal():
        return there[int(name)][1] if int(name) < len(there) else None
    if name.startswith("MIG-"):
        return Gpu(0, "a part of a GPU", None, None)
    return next((gpu for uuid, gpu in there if name.startswith("GPU-") and uuid.startswith(name)), None)


def _mebibytes(text: str) -> int | None:
    return int(text) * MIB if text.isdecimal() else None


def _capability(text: str) -> tuple[int, int] | None:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None
