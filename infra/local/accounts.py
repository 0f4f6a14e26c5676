"""Which user a server can run as, and where that user can read and write. Knows users and modes of directories."""

import hashlib
import os
import pwd
import stat
from pathlib import Path

from infra.local.process import Account, NotExecutableError

SERVICE_USERS = ("realvideo", "postgres", "nobody")
SHARED_HOME = Path("/var/lib/realvideo")


def ordinary_account() -> Account | None:
    """Whom to become when the caller is root, which Postgres refuses to run as; None: stay who we are.

    It has to be in the user database, for initdb looks its name up.
    """
    if os.geteuid() != 0:
        return None
    for name in SERVICE_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(uid=entry.pw_uid, gid=entry.pw_gid)
    raise NotExecutableError(
        f"Postgres does not run as root and none of these users exists: {', '.join(SERVICE_USERS)}"
    )


def reachable_home(directory: Path, account: Account | None) -> Path:
    """`directory` where the account can get to it, else (below /root, say) a place of its own in /var/lib/realvideo.

    In the second case the link `elsewhere` in `directory` shows where that is.
    """
    if account is None or can_reach(directory, account):
        return directory
    home = SHARED_HOME / hashlib.sha256(str(directory.resolve()).encode()).hexdigest()[:16]
    for made in (SHARED_HOME, home):
        made.mkdir(mode=0o755, exist_ok=True)
        made.chmod(0o755)
    sign = directory / "elsewhere"
    sign.unlink(missing_ok=True)
    sign.symlink_to(home)
    return home


def can_reach(path: Path, account: Account) -> bool:
    """True if the account may pass every directory down to `path` and read it."""
    resolved = path.resolve()
    return all(_allows(parent, account, 0o1) for parent in resolved.parents) and _allows(resolved, account, 0o5)


def _allows(path: Path, account: Account, bits: int) -> bool:
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid == account.uid:
        mode >>= 6
    elif status.st_gid == account.gid:
        mode >>= 3
    return mode & bits == bits
