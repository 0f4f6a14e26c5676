"""A node's own consumer behind an armed entry point."""

import sys

from tests.faults.armed import make_ready
from worker.consumer import main

if __name__ == "__main__":
    make_ready()
    sys.exit(main(sys.argv[1:]))
