"""Compares every part of the network with golden numbers: `python -m tests.parity DIR [--dtype float32|float64]`.

Prints one line per part and exits with 1 when one is off by more than its limit, or cannot be compared.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from tests.parity.parts import PARTS

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("directory", type=Path, help="a golden directory")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32")
    arguments = parser.parse_args()
    if not arguments.directory.is_dir():
        parser.error(f"{arguments.directory} is not a directory")
    results = []
    with torch.inference_mode():
        for check in PARTS:
            results.append(check(arguments.directory, DTYPES[arguments.dtype]))
            print(results[-1].line(), flush=True)
    off = [result.part for result in results if not result.within]
    print(f"{len(results)} parts in {arguments.dtype}: " + (f"OFF: {', '.join(off)}" if off else "all within"))
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
