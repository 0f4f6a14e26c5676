"""A directory for each attempt, gone when it ends; and so is what a killed consumer left of earlier ones.

Knows directories and which attempts live in this process; nothing of jobs.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


class AttemptDirectories:
    """Below `root`, which is this consumer's alone. Any thread may use it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._living: set[str] = set()

    @contextmanager
    def of(self, job_id: str, *, attempt: int) -> Iterator[Path]:
        name = f"{job_id}.{attempt}"
        directory = self._root / name
        with self._lock:
            self._remove_what_is_left()
            self._living.add(name)
            directory.mkdir(parents=True)
        try:
            yield directory
        finally:
            with self._lock:
                shutil.rmtree(directory)
                self._living.remove(name)

    def _remove_what_is_left(self) -> None:
        if not self._root.exists():
            return
        for left in self._root.iterdir():
            if left.name in self._living:
                continue
            try:
                shutil.rmtree(left)
            except OSError as error:  # the group is still about to leave a video whose consumer was killed
                log.info("%s is left for the next attempt to remove: %s", left, error)
