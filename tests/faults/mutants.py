"""`python -m tests.faults.mutants [NAME …]`: switch each guard off and demand that its test fails.

Ends with 1 when a mutant survives, that is, when its test passes although the guard is off, or could not run.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.faults.armed import MUTANT
from tests.faults.mutations import MUTATIONS

TESTS_FAILED = 1
"""The status by which pytest says that tests ran and failed."""
TIMEOUT_S = 240


@dataclass(frozen=True)
class Verdict:
    name: str
    was_noticed: bool
    seconds: float
    said: str


def main() -> int:
    parser = argparse.ArgumentParser(description="switch each guard off and demand that a test fails")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(MUTATIONS)}; default: all")
    parser.add_argument("--at-once", type=int, default=2, help="how many installations side by side")
    options = parser.parse_args()
    unknown = set(options.names) - set(MUTATIONS)
    if unknown:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")
    names = options.names or list(MUTATIONS)
    with ThreadPoolExecutor(options.at_once) as pool:
        verdicts = list(pool.map(_try, names))
    for verdict in verdicts:
        mutation = MUTATIONS[verdict.name]
        word = "noticed " if verdict.was_noticed else "SURVIVES"
        print(f"{word}  {verdict.name:<12} {verdict.seconds:5.1f} s  {mutation.guard}: {mutation.without_it}")
        if not verdict.was_noticed:
            print(verdict.said[-3000:])
    survivors = [verdict.name for verdict in verdicts if not verdict.was_noticed]
    print(f"{len(verdicts) - len(survivors)} of {len(verdicts)} mutants noticed")
    return 1 if survivors else 0


def _try(name: str) -> Verdict:
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/faults/{MUTATIONS[name].test}"],
        env={**os.environ, MUTANT: name},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    return Verdict(
        name,
        # an installation that did not even start has proved nothing
        was_noticed=ended.returncode == TESTS_FAILED and "ERROR at setup" not in ended.stdout,
        seconds=time.monotonic() - started,
        said=ended.stdout + ended.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
