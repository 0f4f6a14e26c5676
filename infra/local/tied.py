"""Runs a program that ends when its parent ends, as another user if asked to.

Started as a script by `infra.local.process`, it replaces itself with the program, so the process id stays. It exists
because `preexec_fn` is unsafe in a process that has threads, and because the program's user may not be able to read
this Python. Knows the standard library only.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """`tied.py PARENT_PID SIGNAL UID GID PROGRAM ARGUMENT…`; UID -1 keeps the user."""
    parent, signal_number, uid, gid = (int(argument) for argument in arguments[:4])
    command = arguments[4:]
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":  # after setuid, which forgets the signal
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:
        sys.exit("the parent ended before the program began")
    try:
        os.execv(command[0], command)  # noqa: S606 - there is no shell to want
    except OSError as error:
        sys.exit(f"cannot execute {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
