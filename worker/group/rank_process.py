"""The group's side of one rank: its process and the pipe to it."""

from __future__ import annotations

import subprocess
import threading
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from worker.group.messages import Exit, Launch, ToRank
from worker.processes import ending, is_stopped, start_child

RANK_MODULE = "worker.group.rank"


class RankProcess:
    """A started rank. Nothing here waits, but for `end`."""

    def __init__(self, rank: int, *, process: subprocess.Popen[bytes], pipe: Connection) -> None:
        self.rank = rank
        self.process = process
        self.pipe = pipe
        self._speaking = threading.Lock()

    @classmethod
    def start(cls, launch: Launch, *, module: str) -> RankProcess:
        """See `worker.processes.start_child` for the thread to call this from."""
        ours, theirs = Pipe(duplex=True)
        with theirs:
            process = start_child(
                module,
                [str(theirs.fileno()), str(launch.rank)],
                environment=_environment(launch),
                pass_fds=[theirs.fileno()],
            )
        started = cls(launch.rank, process=process, pipe=ours)
        started.send(launch)
        return started

    def send(self, message: ToRank) -> None:
        """From any thread. To a rank that is gone, this does nothing: its end of the pipe tells."""
        with self._speaking, suppress(OSError):
            self.pipe.send(message)

    def close(self) -> None:
        """The pipe, after the process has ended."""
        with self._speaking:
            self.pipe.close()

    def ending(self) -> str | None:
        return ending(self.process)

    @property
    def is_stopped(self) -> bool:
        return is_stopped(self.process)

    def end(self, *, timeout_s: float) -> None:
        """Ask an idle rank to go, and wait for it so long."""
        self.send(Exit())
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=timeout_s)


def _environment(launch: Launch) -> dict[str, str]:
    threads = str(launch.threads)
    compiled = {} if launch.compiled is None else {"TRITON_CACHE_DIR": str(launch.compiled)}
    return compiled | {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        # threads that spin while they wait for one that was put aside: ten times slower where anything else computes
        "OMP_WAIT_POLICY": "passive",
        "GLOO_SOCKET_IFNAME": "lo",  # the ranks are on one host, whatever its name resolves to
        "NCCL_SOCKET_IFNAME": "lo",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # GPUs are counted as nvidia-smi does
        "NCCL_NVLS_ENABLE": "0",  # NVLink multicast is a resource of the whole host, and others may hold it
        "PYTHONUNBUFFERED": "1",
    }
