"""The rows of whole renders alone: `python -m tests.bench.render --help`. What measures is `worker/bench`."""

import sys

from worker.bench.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["--what", "render", *sys.argv[1:]]))
