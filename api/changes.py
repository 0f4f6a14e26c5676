"""Tells who waits for a job that it changed: the process's one LISTEN connection. Knows ids; reads no row.

The database's trigger notifies `job_changed` with the job's id. A client's stream subscribes here and holds no
connection of its own. While the connection is away, subscribers are told so and look for themselves.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from models.database import psycopg_url

CHANNEL = "job_changed"
CONNECT_TIMEOUT_S = 5
IDLE_CHECK_S = 15.0
ANSWER_TIMEOUT_S = 5.0
RECONNECT_S = 1.0
POLL_S = 2.0

logger = logging.getLogger(__name__)


class Subscription:
    """One waiting stream. Changes while nobody waits are kept until the next wait."""

    def __init__(self) -> None:
        self._changed: set[str] = set()
        self._wake = asyncio.Event()

    async def wait(self, *, timeout_s: float) -> frozenset[str]:
        """Ids of jobs that changed since the last wait; empty when the time is over or somebody woke everyone."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return frozenset()
        self._wake.clear()
        changed, self._changed = frozenset(self._changed), set()
        return changed

    def add(self, job_id: str) -> None:
        self._changed.add(job_id)
        self._wake.set()

    def wake(self) -> None:
        self._wake.set()


class JobChanges:
    """All subscriptions of this process. To be used in its event loop."""

    def __init__(self, database_url: str) -> None:
        self._conninfo = psycopg_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._of_job: dict[str, set[Subscription]] = {}
        self._of_all: set[Subscription] = set()
        self.is_listening = False
        self.is_closing = False

    @contextmanager
    def subscribe(self, job_id: str) -> Iterator[Subscription]:
        """Changes of one job, while the block runs."""
        subscription = Subscription()
        self._of_job.setdefault(job_id, set()).add(subscription)
        try:
            yield subscription
        finally:
            others = self._of_job[job_id]
            others.discard(subscription)
            if not others:
                del self._of_job[job_id]

    @contextmanager
    def subscribe_to_all(self) -> Iterator[Subscription]:
        subscription = Subscription()
        self._of_all.add(subscription)
        try:
            yield subscription
        finally:
            self._of_all.discard(subscription)

    def pause_s(self, at_most_s: float) -> float:
        """How long a stream may wait before it looks for itself: long while somebody listens for it."""
        return max(at_most_s if self.is_listening else min(at_most_s, POLL_S), 0)

    def close(self) -> None:
        """Let every stream end now, so that the server can stop."""
        self.is_closing = True
        self._wake_everyone()

    async def listen(self) -> None:
        """Runs until it is canceled. Connects again when the connection breaks."""
        while True:
            try:
                await self._listen_once()
            except (psycopg.Error, OSError, TimeoutError) as error:
                logger.warning("lost the connection that listens for changes of jobs: %s", error)
            finally:
                self.is_listening = False
                self._wake_everyone()  # from now on they look for themselves
            await asyncio.sleep(RECONNECT_S)

    async def _listen_once(self) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._conninfo,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="realvideo-api-listener",
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )
        async with connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            self.is_listening = True
            self._wake_everyone()  # something may have changed before this connection heard of it
            while True:
                async for notice in connection.notifies(timeout=IDLE_CHECK_S):
                    self._notify(notice.payload)
                # silence may also mean that the other side is gone
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await connection.execute("SELECT 1")

    def _notify(self, job_id: str) -> None:
        for subscription in (*self._of_job.get(job_id, ()), *self._of_all):
            subscription.add(job_id)

    def _wake_everyone(self) -> None:
        for subscriptions in (self._of_all, *self._of_job.values()):
            for subscription in subscriptions:
                subscription.wake()
