"""The faults of a chaos run: each kind, how it strikes, and what has to be put right again some time later.

Everything is done by the main thread, which the processes under test are tied to.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

import psutil
import redis

from models.queues import BROKER_SETTINGS, Priority, render_queue
from tests.faults.installation import PRESET, Installation, freeze, thaw
from tests.faults.parts import Node, Part
from tests.faults.strikes import Action
from tests.servers.faulty_proxy import Cut
from worker.failpoints import Failpoint
from worker.publisher import BrokerDown, Publisher

PREFIX = str(BROKER_SETTINGS["broker_transport_options"]["global_keyprefix"])
S3_ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
AT_FAILPOINT = "worker kill -9 at a failpoint"
STORAGE_ERRORS = "S3 errors"
STORAGE_CUTS = "S3 cuts connections"
BAD_ANSWERS = "receiver misbehaves"
COUNTED_WHEN_HIT = (AT_FAILPOINT, STORAGE_ERRORS, STORAGE_CUTS, BAD_ANSWERS)
"""They lie in wait, and count when somebody ran into them."""
AT_LEAST_RUNNING = 1
"""Nodes that are left alone, so that jobs get through beside the faults."""


class Faults:
    """Strikes one at a time; `tend` often, as it brings back what is due."""

    def __init__(self, installation: Installation, *, rng: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self._installation = installation
        self._rng = rng
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._busy: set[str] = set()
        """Nodes that are frozen or told to end; struck again when that is over."""
        self._kinds: dict[str, tuple[int, Callable[[Sequence[str]], bool]]] = {
            "worker kill -9 (node)": (6, self._kill_node),
            "worker kill -9 (consumer)": (8, self._kill_consumer),
            AT_FAILPOINT: (12, self._kill_at_failpoint),
            "worker SIGSTOP longer than its lease": (4, self._freeze_node),
            "consumer SIGSTOP": (3, self._freeze_consumer),
            "rank kill -9": (5, self._kill_rank),
            "rank SIGSTOP": (3, self._freeze_rank),
            "drain (SIGTERM) and restart": (4, self._drain),
            "scheduler kill -9": (4, lambda _: self._kill(self._installation.scheduler)),
            "webhook sender kill -9": (3, lambda _: self._kill(self._installation.sender)),
            "API kill -9": (2, lambda _: self._kill(self._installation.api)),
            "broker kill -9, empty restart": (5, self._kill_broker),
            "broker FLUSHALL": (5, self._flush_broker),
            "broker SIGSTOP": (2, self._freeze_broker),
            "Postgres crash": (3, self._kill_record),
            STORAGE_ERRORS: (5, self._break_storage),
            STORAGE_CUTS: (5, self._cut_storage),
            BAD_ANSWERS: (7, self._spoil_receiver),
            "duplicate messages": (10, self._send_twice),
            "garbage message": (2, self._send_garbage),
        }

    def strike_one(self, submitted: Sequence[str]) -> None:
        names = list(self._kinds)
        weights = [self._kinds[name][0] for name in names]
        for name in self._rng.choices(names, weights, k=20):
            if self._kinds[name][1](submitted):
                self.counts[name] += name not in COUNTED_WHEN_HIT
                return

    def tend(self) -> None:
        now = time.monotonic()
        due = [action for at, action in self._later if at <= now]
        self._later = [(at, action) for at, action in self._later if at > now]
        for action in due:
            action()
        for part in self._installation.parts:
            if not part.is_running:
                part.start()

    def end(self) -> None:
        """Everything that is frozen thaws now, and every wire is whole."""
        for _, action in self._later:
            action()
        self._later = []

    # --- workers ---

    def _kill_node(self, _: Sequence[str]) -> bool:
        node = self._victim()
        if node is None:
            return False
        node.kill()
        return True

    def _kill_consumer(self, _: Sequence[str]) -> bool:
        node = self._victim()
        return node is not None and self._signal(node.consumer_pid(), signal.SIGKILL)

    def _kill_at_failpoint(self, _: Sequence[str]) -> bool:
        node = self._victim()
        if node is None:
            return False
        order = self._installation.orders.give(Action.KILL, self._rng.choice(list(Failpoint)), node.name)

        def withdraw() -> None:
            order.file.unlink(missing_ok=True)
            self.counts[AT_FAILPOINT] += order.struck is not None

        self._in(20.0, withdraw)
        return True

    def _freeze_node(self, _: Sequence[str]) -> bool:
        node = self._victim()
        if node is None:
            return False
        pid = node.pid
        freeze(pid)
        self._busy.add(node.name)

        def wake() -> None:
            self._busy.discard(node.name)
            with suppress(psutil.NoSuchProcess):
                thaw(pid)

        self._in(75.0, wake)
        return True

    def _freeze_consumer(self, _: Sequence[str]) -> bool:
        node = self._victim()
        return node is not None and self._signal(node.consumer_pid(), signal.SIGSTOP)

    def _kill_rank(self, _: Sequence[str]) -> bool:
        return self._signal(self._rank(), signal.SIGKILL)

    def _freeze_rank(self, _: Sequence[str]) -> bool:
        return self._signal(self._rank(), signal.SIGSTOP)

    def _drain(self, _: Sequence[str]) -> bool:
        node = self._victim()
        if node is None:
            return False
        node.send(signal.SIGTERM)
        self._busy.add(node.name)
        self._in(40.0, lambda: self._busy.discard(node.name))
        return True

    def _victim(self) -> Node | None:
        nodes = self._installation.nodes
        if len(self._busy) >= len(nodes) - AT_LEAST_RUNNING:
            return None
        fit = [node for node in nodes if node.is_running and node.name not in self._busy]
        return self._rng.choice(fit) if fit else None

    def _rank(self) -> int | None:
        node = self._victim()
        pids = [] if node is None else node.rank_pids()
        return self._rng.choice(pids) if pids else None

    # --- everything else ---

    def _kill(self, part: Part) -> bool:
        if not part.is_running:
            return False
        part.kill()
        return True

    def _kill_broker(self, _: Sequence[str]) -> bool:
        if not self._installation.valkey.is_running:
            return False
        self._installation.valkey.kill()
        self._installation.valkey.start()
        return True

    def _flush_broker(self, _: Sequence[str]) -> bool:
        with (
            suppress(redis.RedisError),
            redis.Redis.from_url(self._installation.valkey.url, socket_timeout=1) as client,
        ):
            client.flushall()
            return True
        return False

    def _freeze_broker(self, _: Sequence[str]) -> bool:
        pid = self._installation.valkey.pid
        if not self._signal(pid, signal.SIGSTOP):
            return False
        self._in(20.0, lambda: self._signal(pid, signal.SIGCONT))
        return True

    def _kill_record(self, _: Sequence[str]) -> bool:
        self._installation.postgres.kill()
        self._installation.postgres.start()
        return True

    def _break_storage(self, _: Sequence[str]) -> bool:
        """The connections that are open end, as errors come in place of new ones."""
        self._cut(STORAGE_ERRORS, times=1, side="to_server")
        self._installation.wire.refusals += [S3_ERROR] * self._rng.randint(1, 6)
        return True

    def _cut_storage(self, _: Sequence[str]) -> bool:
        self._cut(STORAGE_CUTS, times=self._rng.randint(1, 5), side=self._rng.choice(["to_server", "to_client"]))
        return True

    def _cut(self, name: str, *, times: int, side: str) -> None:
        left = [times]

        def cut(data: bytes) -> bytes:
            if left[0] <= 0:
                return data
            self.counts[name] += left[0] == times
            left[0] -= 1
            raise Cut

        setattr(self._installation.wire, side, cut)

    def _spoil_receiver(self, _: Sequence[str]) -> bool:
        answers = [self._rng.choice((500, 503, 302, None)) for _ in range(self._rng.randint(1, 6))]
        count = len(answers)

        def misbehave() -> int | None:
            if not answers:
                return 204
            self.counts[BAD_ANSWERS] += len(answers) == count
            return answers.pop()

        self._installation.receiver.misbehave = misbehave
        return True

    def _send_twice(self, submitted: Sequence[str]) -> bool:
        if not submitted:
            return False
        with suppress(BrokerDown), Publisher(self._installation.valkey.url) as publisher:
            for _ in range(3):
                publisher.wake_for_render(self._rng.choice(submitted[-20:]), preset=PRESET, priority=Priority.NORMAL)
            return True
        return False

    def _send_garbage(self, _: Sequence[str]) -> bool:
        queue = PREFIX + render_queue(PRESET, Priority.NORMAL)
        with (
            suppress(redis.RedisError),
            redis.Redis.from_url(self._installation.valkey.url, socket_timeout=1) as client,
        ):
            client.lpush(queue, b"\x80 no JSON")
            return True
        return False

    def _signal(self, pid: int | None, number: signal.Signals) -> bool:
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            return True
        return False

    def _in(self, seconds: float, action: Callable[[], object]) -> None:
        """`seconds` by the clock of the processes under test."""

        def act() -> None:
            action()

        self._later.append((time.monotonic() + self._installation.seconds(seconds), act))
