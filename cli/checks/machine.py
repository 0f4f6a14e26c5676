"""Python, memory and disk."""

import shutil
import sys
import tempfile
from pathlib import Path

from cli.checks.finding import Finding, State

OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON = (3, 13)
CPU_MEMORY_GIB = 2
CPU_DISK_GIB = 2


def python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        return Finding("Python", State.OK, version)
    return Finding("Python", State.MISSING, f"{version} is not supported", "use Python 3.11, 3.12 or 3.13")


def memory() -> Finding:
    import psutil

    seen = psutil.virtual_memory()
    said = f"{seen.available / 2**30:.1f} of {seen.total / 2**30:.1f} GiB free"
    if seen.available >= CPU_MEMORY_GIB * 2**30:
        return Finding("memory", State.OK, said)
    mend = f"the demo, with two CPU ranks of the avatar preset, takes about {CPU_MEMORY_GIB} GiB: end other programs"
    return Finding("memory", State.NOTE, said, mend)


def disks() -> list[Finding]:
    """Free space where temporary files go and where we are; one finding if that is one disk."""
    places = {"disk (temporary files)": Path(tempfile.gettempdir()), "disk (here)": Path.cwd()}
    if len({place.stat().st_dev for place in places.values()}) == 1:
        places = {"disk": Path.cwd()}
    return [_disk(name, place) for name, place in places.items()]


def _disk(name: str, place: Path) -> Finding:
    free = shutil.disk_usage(place).free / 2**30
    said = f"{free:.1f} GiB free at {place}"
    if free >= CPU_DISK_GIB:
        return Finding(name, State.OK, said)
    return Finding(name, State.MISSING, said, f"at least {CPU_DISK_GIB} GiB are needed: free some")
