"""What every process under test does first: put a mutant in place if one is asked for, set its clock, arm failpoints.

Knows the suite's own environment variables, which mean nothing to the product.
"""

import os
from pathlib import Path

from tests.faults.clock import set_clock
from tests.faults.strikes import ANY, Orders
from worker.failpoints import arm

ORDERS = "FAULTS_ORDERS"
CLOCK = "FAULTS_CLOCK"
MUTANT = "FAULTS_MUTANT"


def make_ready() -> None:
    """Call it when all that will run is imported."""
    mutant = os.environ.get(MUTANT)
    if mutant:
        from tests.faults.mutations import MUTATIONS  # and with them whatever has a guard

        MUTATIONS[mutant].apply()
    set_clock(float(os.environ[CLOCK]))
    arm(Orders(Path(os.environ[ORDERS]), who=os.environ.get("REALVIDEO_NODE_NAME", ANY)).strike)
