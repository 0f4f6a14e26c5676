"""The rows of the VAE's decoder alone: `python -m tests.bench.vae --help`. What measures is `worker/bench`."""

import sys

from worker.bench.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["--what", "vae", *sys.argv[1:]]))
