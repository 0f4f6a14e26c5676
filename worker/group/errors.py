"""How a render or a group ends when it does not end well."""

from __future__ import annotations


class GroupFailed(Exception):
    """A rank died, raised, or stopped moving. The group is down, no process of it is left, and the render is lost.

    `code` is stable: `rank_died`, `rank_failed`, `rank_stopped`, `out_of_memory`, `no_progress`, `start_timeout`,
    `closed`.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class GroupRefused(Exception):
    """The group can never start as it is configured: an impossible number of ranks, weights that are not there."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class GroupUnavailable(Exception):
    """No warm group in time: it is still starting, or failed too often."""


class RenderCanceled(Exception):
    """The render ended at a block border because its caller asked for it. The group is fit for the next."""


class RenderDrained(Exception):
    """The render ended at a block border because the node goes away; another node can make it."""


class RenderRefused(Exception):
    """These inputs cannot be rendered, however often it is tried. The group is fit for the next."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class RenderInterrupted(Exception):
    """A fault outside the network, such as a full disk; another try may do. The group is fit for the next."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
