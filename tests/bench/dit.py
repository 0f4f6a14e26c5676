"""The rows of the DiT alone: `python -m tests.bench.dit --help`. What measures is `worker/bench`."""

import sys

from worker.bench.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["--what", "dit", *sys.argv[1:]]))
