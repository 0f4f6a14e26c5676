"""What is measured, as it is kept and written: quantiles, ceilings, floors, clocks, rows, and the whole report.

Knows numbers and their names only, so that the process that prints them loads no network. Written as JSON, field for
field; `SCHEMA` grows by one whenever a field changes its meaning or goes away.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

SCHEMA = 1


class Part(StrEnum):
    """What a row is about."""

    DIT = "dit"
    VAE = "vae"
    RENDER = "render"


@dataclass(frozen=True)
class Quantiles:
    """Of the time of single blocks, in milliseconds."""

    count: int
    mean: float
    least: float
    median: float
    p95: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quantiles:
        """Raises ValueError for no values."""
        if not values:
            raise ValueError("there are no values")
        ordered = sorted(values)
        return cls(
            count=len(ordered),
            mean=sum(ordered) / len(ordered),
            least=ordered[0],
            median=_quantile(ordered, 0.5),
            p95=_quantile(ordered, 0.95),
            most=ordered[-1],
        )


@dataclass(frozen=True)
class Piece:
    """One kind of work of the floor: how fast this device does it alone, warm and over and over."""

    name: str
    shape: str
    way: str
    """What did it: a dtype and a backend."""
    calls: int
    """In one block."""
    us: float
    """Of one call; for traffic, of one gigabyte."""
    rate: float
    """TFLOP/s, for traffic TB/s."""
    ms: float
    """Of all calls of one block."""


@dataclass(frozen=True)
class Floor:
    """The time of a block if nothing were done but the counted work, at the speed that each kind of it has alone."""

    ms: float
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Clocks:
    """One GPU while a row was measured."""

    gpu: str
    """Its UUID, as nvidia-smi has it."""
    samples: int
    sm_mhz_median: float
    sm_mhz_least: float
    power_w_mean: float
    temperature_c_most: float
    used_gib_most: float
    """Of all processes on it, allocated or only reserved."""


@dataclass(frozen=True)
class Start:
    """Seconds of a rank from nothing, one after the other."""

    import_s: float
    """Until the process has the code of the networks."""
    load_s: float
    """Reading or drawing the weights, and packing them."""
    first_block_s: float
    """Beginning of the first render until its first block is there, whatever is compiled and tuned on the way."""
    warm_up_s: float
    """The rest of the first render, which is that of a worker that makes itself ready."""
    from_process_start_to_first_block_s: float
    from_process_start_to_ready_s: float
    first_block_of_next_render_s: float
    """Of a render in the warm process: encoders, reference frame and the first block."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: Part
    preset: str
    precision: str
    memory: str
    steps: int | None
    ranks: int
    replica: int
    """Number of this group among those that worked at the same time."""
    replicas: int
    gpus: int
    """That this group used."""
    height: int
    width: int
    block_ms: Quantiles
    slowest_before_ms: float
    """The slowest block after the third and before those counted; the sink turns for the first time among them."""
    writing_ms: Quantiles | None
    """Of the block's time, how long the writer of the file held it up; None where nothing is written."""
    frames_per_second: float
    network_tflop: float | None
    """Operations of the DiT in one block, as the network is defined."""
    floor: Floor
    peak_gib: tuple[float, ...]
    """Allocated at most, by rank; on a CPU the resident size of the process."""
    clocks: tuple[Clocks, ...]
    start: Start | None = None

    @property
    def times_floor(self) -> float:
        """Median of a block over the floor."""
        return self.block_ms.median / self.floor.ms


@dataclass(frozen=True)
class NotMeasured:
    """A row that was asked for and is not there."""

    what: str
    precision: str
    reason: str


@dataclass(frozen=True)
class StepError:
    """Of the flow of one forward of the first block, both ways given the same noisy latents; relative L2."""

    step: int
    timestep: float
    flow: float


@dataclass(frozen=True)
class BlockError:
    """Of one block of a running stream, each way going on from its own blocks."""

    block: int
    latents: float
    """Relative L2."""
    psnr_db: float | None
    """Of the decoded pixels, where they were decoded; 8-bit pixels, infinite when all are equal."""


@dataclass(frozen=True)
class Comparison:
    """How far one way of computing is from another."""

    way: str
    reference: str
    steps: int
    step_errors: tuple[StepError, ...]
    block_errors: tuple[BlockError, ...]


@dataclass(frozen=True)
class Versions:
    """What computed."""

    python: str
    torch: str
    cuda: str | None
    cudnn: int | None
    triton: str | None
    driver: str | None
    device: str
    attention: tuple[str, ...]
    """Backends of attention that worked."""


@dataclass(frozen=True)
class Report:
    """All of one run."""

    schema: int
    made_at: str
    plan: dict[str, object]
    weights: str
    versions: Versions | None
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    not_measured: tuple[NotMeasured, ...]

    def write(self, path: Path) -> None:
        """As JSON. Infinity is written as null."""
        path.write_text(json.dumps(_finite(asdict(self)), indent=2, allow_nan=False, default=str) + "\n")


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Between the two nearest values."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def _finite(value: object) -> object:
    match value:
        case dict():
            return {name: _finite(one) for name, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
        case float() if value in (float("inf"), float("-inf")):
            return None
        case _:
            return value
