"""A connection with Postgres that waits for an answer, but not for ever. Knows psycopg; no table.

The server's own limits do not help when the server is frozen, nor does TCP: the kernel of a frozen server acknowledges
what it is sent. So the client counts too.
"""

import time
from collections.abc import Generator
from typing import Any

import psycopg

ANSWER_TIMEOUT_S = 40.0
"""For one round trip: more than the server gives a statement, so that it is the server who ends what is only slow."""


class PatientConnection(psycopg.Connection[Any]):
    """Raises psycopg.OperationalError and is closed when the server says nothing for `ANSWER_TIMEOUT_S`."""

    def wait(self, gen: Generator[Any, Any, Any], *arguments: Any, **named: Any) -> Any:
        return super().wait(self._bounded(gen), *arguments, **named)

    def _bounded(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """`gen`, which is resumed several times a second while it waits, ended when its time is over."""
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if not ready and time.monotonic() > deadline:
                    self.pgconn.finish()
                    raise psycopg.OperationalError(f"the server gave no answer for {ANSWER_TIMEOUT_S:g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value
