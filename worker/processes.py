"""Child processes that never outlive their parent, and the end of whole process groups.

Knows signals and process groups; nothing of ranks, queues or what a child does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import psutil

_PR_SET_PDEATHSIG = 1


def start_child(
    module: str, arguments: Sequence[str], *, environment: Mapping[str, str], pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """`python -m module parent-pid arguments…` as the leader of a session and process group of its own.

    The module must call `die_with_parent` first. Linux ties a child to the *thread* that started it: call this from a
    thread that lives as long as the child has to.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, str(os.getpid()), *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=pass_fds,
    )


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, in whatever way."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it ended before the kernel was told
        os.kill(os.getpid(), signal.SIGKILL)


def ending(process: subprocess.Popen[bytes]) -> str | None:
    """How a child ended, in words; None while it lives.

    Does not reap it, so that its process group's number cannot go to anybody else before `kill_groups`.
    """
    status = process.returncode
    if status is None:
        try:
            seen = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return "was reaped by another thread"
        if seen is None:
            return None
        status = seen.si_status if seen.si_code == os.CLD_EXITED else -seen.si_status
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"exited with status {status}"


def is_stopped(process: subprocess.Popen[bytes]) -> bool:
    """Whether a signal made this child stand still, and none has woken it. Takes the news from nobody."""
    with suppress(ChildProcessError):
        return os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    return False


def kill_groups(processes: Iterable[subprocess.Popen[bytes]], *, timeout_s: float) -> list[int]:
    """SIGKILL the process groups these children lead, reap them, and wait until no member is left.

    Returns the numbers of the groups that still had a member after `timeout_s`.
    """
    processes = list(processes)
    deadline = time.monotonic() + timeout_s
    for process in processes:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        try:
            process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            continue  # it is named below
    left = [process.pid for process in processes]
    while left and (left := [group for group in left if _has_members(group)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def _has_members(group: int) -> bool:
    """Whether any process of the group lives. The dead that nobody reaps do not count."""
    with suppress(ChildProcessError):
        os.waitpid(-group, os.WNOHANG)  # as process 1 of a container we inherit our children's children
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # nobody, or the number went to somebody else
        return False
    return any(_is_live_member(process, group) for process in psutil.process_iter())


def _is_live_member(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
