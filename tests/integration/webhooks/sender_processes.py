"""The scheduler and the sender as processes of a test."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def running(module: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """One of them, killed at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", f"from {module} import main; main()"],
        env=environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
