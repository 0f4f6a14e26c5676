"""`python -m tests.faults.chaos --jobs N --minutes M --seed S`: everything breaks at random, and nothing may be lost.

Prints jobs by outcome, faults by kind, the five invariants of `checker.py`, and what the collector leaves in the bucket
that is nobody's; the last line is a summary. Ends with 1 when an invariant is broken or something is left. At
`--clock 1.0`, the default, leases and limits are those of production.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from sqlalchemy import func, select

from models.job import TERMINAL_STATUSES, Job
from tests.faults.chaos_faults import Faults
from tests.faults.checker import findings_of, left_by_the_collector, undelivered
from tests.faults.installation import Installation, running_installation
from tests.servers.swift import running_swift

SUBMITTED_BY = 0.9
"""Of the run; the rest of it is faults on what is left."""
LONG_EACH = 25
"""Of so many jobs one is long."""
SETTLE_S = 240.0
"""At the longest, by the clock of the processes, from the last fault until every job has ended and is reported."""
LONG = "seconds=0.15"
"""Of a video of more than ten seconds, which is kept while it is drawn and goes on where it was."""
ORDINARY = ("", "", "", "seconds=0.1", "seconds=0.3", "seconds=0.3 file=0.5")
NASTY = ("do=exit", "do=raise block=1", "do=refuse", "do=interrupt attempt=1", "do=kill attempt=1", "do=stop attempt=1")


@dataclass
class Customers:
    """They submit jobs at random, some twice, and cancel some; a thread of its own, so that faults go on beside it."""

    installation: Installation
    jobs: int
    within_s: float
    rng: random.Random
    faults: Faults
    stop: threading.Event = field(default_factory=threading.Event)
    submitted: list[str] = field(default_factory=list)
    error: BaseException | None = None

    def run(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self.error = error
            raise

    def _run(self) -> None:
        started = time.monotonic()
        for number in range(self.jobs):
            due = started + self.within_s * number / self.jobs
            if self.stop.wait(max(0.0, due - time.monotonic())):
                return
            orders = self.rng.choice(NASTY if self.rng.random() < 0.08 else ORDINARY)
            key = f"chaos-{number}"
            seconds = self.rng.choice((1, 1, 1, 3))
            if number % LONG_EACH == LONG_EACH - 1:
                orders, seconds = LONG, 30
            job_id = self.installation.submit(orders, seconds=seconds, key=key)
            self.submitted.append(job_id)
            if self.rng.random() < 0.1:
                assert self.installation.submit(orders, seconds=seconds, key=key) == job_id
            if self.rng.random() < 0.08:
                with suppress(httpx.HTTPError):
                    self.installation.cancel(self.rng.choice(self.submitted[-5:]))
                    self.faults.counts["cancel"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description="random faults on a whole installation")
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--clock", type=float, default=1.0, help="fraction of the production's times")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--every", type=float, default=None, help="seconds between two faults; default 3.5 × clock^½")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory(prefix="realvideo-chaos-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        storage = directory / "swift"
        storage.mkdir()
        with (
            running_swift(storage) as server,
            running_installation(directory, server, clock=options.clock, nodes=options.nodes) as installation,
        ):
            return _run(
                installation,
                jobs=options.jobs,
                run_s=60 * options.minutes,
                seed=seed,
                every_s=options.every or 3.5 * options.clock**0.5,
            )


def _run(installation: Installation, *, jobs: int, run_s: float, seed: int, every_s: float) -> int:
    faults = Faults(installation, rng=random.Random(seed))
    customers = Customers(
        installation, jobs=jobs, within_s=SUBMITTED_BY * run_s, rng=random.Random(seed + 1), faults=faults
    )
    submitting = threading.Thread(target=customers.run, daemon=True)
    submitting.start()
    ends_at = time.monotonic() + run_s
    while time.monotonic() < ends_at and customers.error is None:
        faults.strike_one(customers.submitted)
        struck_at = time.monotonic()
        while time.monotonic() < min(ends_at, struck_at + every_s):
            faults.tend()
            time.sleep(0.05)
    last_fault_at = time.monotonic()
    faults.end()
    installation.restore()
    submitting.join(timeout=60)
    if submitting.is_alive() or customers.error is not None:
        customers.stop.set()
        print(f"the customers did not come to an end: {customers.error}")
        return 1
    drained_s = _seconds_until(
        lambda: not _unended(installation), since=last_fault_at, limit_s=max(60.0, installation.seconds(SETTLE_S))
    )
    reported_s = _seconds_until(
        lambda: not undelivered(installation), since=last_fault_at, limit_s=max(60.0, installation.seconds(SETTLE_S))
    )
    return _report(installation, faults, seed=seed, drained_s=drained_s, reported_s=reported_s, run_s=run_s)


def _unended(installation: Installation) -> int:
    with installation.database.transaction() as session:
        count = session.scalar(select(func.count()).where(Job.status.not_in(TERMINAL_STATUSES)))
    assert count is not None
    return count


def _seconds_until(condition: object, *, since: float, limit_s: float) -> float | None:
    assert callable(condition)
    while not condition():
        if time.monotonic() - since > limit_s:
            return None
        time.sleep(0.2)
    return time.monotonic() - since


def _report(
    installation: Installation,
    faults: Faults,
    *,
    seed: int,
    drained_s: float | None,
    reported_s: float | None,
    run_s: float,
) -> int:
    findings = findings_of(installation)
    with installation.database.transaction() as session:
        jobs = list(session.scalars(select(Job)))
    outcomes = Counter(f"{job.status}{f' ({job.error_code})' if job.error_code else ''}" for job in jobs)
    print(f"\n| jobs | {len(jobs)} |\n|---|---|")
    for outcome, count in sorted(outcomes.items()):
        print(f"| {outcome} | {count} |")
    print(f"| attempts | {sum(job.attempt for job in jobs)} |")
    print(f"\n| faults | {faults.counts.total()} |\n|---|---|")
    for kind, count in sorted(faults.counts.items()):
        print(f"| {kind} | {count} |")
    print("\n| invariant | broken |\n|---|---|")
    for invariant, complaints in findings.by_invariant().items():
        print(f"| {invariant.replace('_', ' ')} | {len(complaints)} |")
        for complaint in complaints[:10]:
            print(f"  {complaint}", file=sys.stderr)
    left = [] if drained_s is None else left_by_the_collector(installation)
    print(f"\nnobody's objects in the bucket, after the collector: {len(left)}")
    for key in left[:10]:
        print(f"  {key}", file=sys.stderr)
    is_well = findings.are_none and not left and drained_s is not None and reported_s is not None
    lost, twice, webhooks = findings.acknowledged_are_rows, findings.ended_once, findings.one_webhook_id
    print(
        f"\n{'held' if is_well else 'BROKEN'}: {len(jobs)} jobs, {faults.counts.total()} faults "
        f"in {run_s / 60:.1f} min, clock {installation.clock:g}, seed {seed}; "
        f"lost {len(lost)}, ended twice {len(twice)}, webhooks wrong {len(webhooks)}, "
        f"all ended {_words(drained_s)} after the last fault, all reported {_words(reported_s)}"
    )
    return 0 if is_well else 1


def _words(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
