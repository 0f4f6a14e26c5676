"""Writes the rings of a one-disk Swift node. Run as an own process: swift's imports are not for the test process."""

import sys
from pathlib import Path

from swift.common.ring import RingBuilder

PART_POWER = 4


def main(directory: Path, ports: dict[str, int]) -> None:
    for name, port in ports.items():
        builder = RingBuilder(PART_POWER, 1, 0)
        builder.add_dev(
            {"id": 0, "region": 1, "zone": 1, "weight": 1.0, "ip": "127.0.0.1", "port": port, "device": "disk"}
        )
        builder.rebalance()
        builder.get_ring().save(str(directory / f"{name}.ring.gz"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), {name: int(port) for name, port in (argument.split("=") for argument in sys.argv[2:])})
