"""One line when something goes away and one when it is back, however often it was tried in between."""

import time

import structlog

log = structlog.get_logger(__name__)


class Outage:
    """Whether something is away, as far as its user knows."""

    def __init__(self, of: str) -> None:
        self._of = of
        self._since: float | None = None

    def goes_on(self, error: Exception) -> None:
        """It failed, perhaps again."""
        if self._since is None:
            self._since = time.monotonic()
            log.error(f"{self._of} is away; trying until it is back", error=str(error))

    def is_over(self) -> None:
        """It worked."""
        if self._since is not None:
            log.info(f"{self._of} is back", after_s=round(time.monotonic() - self._since, 1))
            self._since = None
