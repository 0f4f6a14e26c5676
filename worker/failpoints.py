"""Named places in the story of a job where a test may strike: end the process, freeze it, hold it.

Nothing strikes in a normal run. No setting, variable or file is read here: a failpoint comes to life only when somebody
calls `arm`, and nothing in the product does; the entry points of the fault suite do, which are no part of the package.
Unarmed, a failpoint is one comparison. Knows names; nothing of what stands around them.
"""

from collections.abc import Callable
from enum import StrEnum


class Failpoint(StrEnum):
    """What has just happened, and what is about to happen."""

    POPPED = "popped"  # the message is taken from the broker; nothing is claimed
    CLAIMED = "claimed"  # the claim is committed; the story is about to begin
    PREPARED = "prepared"  # the inputs are decoded; the render is about to be asked for
    BLOCK = "block"  # the group has drawn a block
    KEPT = "kept"  # a checkpoint of the render is stored; it is about to be recorded
    CHECKPOINT = "checkpoint"  # it is recorded; what it replaces is about to be deleted
    MEASURED = "measured"  # the file is finished and measured; the upload is about to begin
    UPLOADED = "uploaded"  # all parts are stored; the outcome is about to be written
    DONE = "done"  # the outcome is committed
    RESCUED = "rescued"  # the scheduler has taken jobs from workers that are gone
    TAKEN = "taken"  # the scheduler has marked jobs as published; they are about to be
    SENT = "sent"  # a webhook was answered; that is about to be written down


Strike = Callable[[Failpoint, str], None]
_strike: Strike | None = None


def arm(strike: Strike) -> None:
    """From now on `strike` is called at every failpoint of this process, with its subject. For tests."""
    global _strike
    _strike = strike


def failpoint(name: Failpoint, subject: str = "") -> None:
    """`subject` is the id of the job or delivery that this process works on, if it is one."""
    if _strike is not None:
        _strike(name, subject)
