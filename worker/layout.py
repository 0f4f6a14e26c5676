"""How the GPUs of one machine are shared out: so many replicas, each a group of so many ranks on such GPUs.

Knows GPUs by number and size, and which numbers of ranks can share a picture. Starts nothing and loads nothing.
A *replica* is a node of its own and renders one job at a time:

- **throughput**: a rank for each GPU, which does everything; as many jobs at once as there are GPUs;
- **latency**: one replica; one GPU has the encoders and the VAE, the others one sequence-parallel DiT;
- **latency-shared**: the same, but the encoders and the VAE are a second process on the first GPU of the DiT;
- **RxK**: R replicas of K ranks each, for whoever knows better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from worker.gpus import Gpu
from worker.memory_needs import GIB, Demand, Role
from worker.pipeline.config import preset
from worker.pipeline.precision import MemoryUse, Precision, multiplies_fp8
from worker.pipeline.rank_counts import cut_side, dit_ranks_of

LAYOUT_PATTERN = r"^(auto|throughput|latency|latency-shared|[1-9]\d{0,2}x[1-9]\d{0,2})$"
USUAL_PICTURE = (640, 480)
"""Height and width in pixels that most videos have."""


class Goal(StrEnum):
    """What `auto` is after."""

    THROUGHPUT = "throughput"
    """The most frames per second of all jobs together."""
    LATENCY = "latency"
    """One job, done as soon as can be."""


@dataclass(frozen=True)
class Order:
    """What is to be rendered, and what the operator said about how."""

    demand: Demand
    layout: str
    """Fits `LAYOUT_PATTERN`."""
    goal: Goal
    places: tuple[int, ...] | None = None
    """GPUs that may be used, by `Gpu.index`; with RxK the GPU of each rank. None: all, in their order."""
    picture: tuple[int, int] = USUAL_PICTURE
    """Height and width in pixels."""


@dataclass(frozen=True)
class Replica:
    ranks: int
    gpus: tuple[int, ...] = ()
    """The GPU of each rank, the same number where two share it; empty: processors."""

    @property
    def roles(self) -> tuple[Role, ...]:
        """What each rank holds."""
        return (Role.ALL,) if self.ranks == 1 else (Role.ENCODERS, *[Role.DIT] * (self.ranks - 1))


@dataclass(frozen=True)
class Plan:
    name: str
    replicas: tuple[Replica, ...]
    notes: tuple[str, ...] = field(default=())
    """What an operator should know, a sentence each."""

    @property
    def ranks(self) -> int:
        return sum(replica.ranks for replica in self.replicas)

    def __str__(self) -> str:
        return f"layout {self.name}: {', '.join(map(_replica_in_words, self.replicas))}"


class ImpossiblePlan(ValueError):
    """The machine cannot do what was ordered; the message says why and what it could do."""


def plan(order: Order, gpus: Sequence[Gpu]) -> Plan:
    """Shares the GPUs out. `gpus` are those that can be seen; none for a machine that is to render on processors.

    Raises `ImpossiblePlan`, and `UnknownPreset` where the layout depends on the preset's sizes.
    """
    made = _plan(order, gpus)
    used = [gpu for gpu in gpus if any(gpu.index in replica.gpus for replica in made.replicas)]
    return replace(made, notes=(*made.notes, *_cost_of_precision(order.demand, used)))


def _plan(order: Order, gpus: Sequence[Gpu]) -> Plan:
    if "x" in order.layout:
        replicas, _, ranks = order.layout.partition("x")
        return _explicit(order, gpus, replicas=int(replicas), ranks=int(ranks))
    if not gpus:
        if order.layout != "auto":
            raise ImpossiblePlan(f"layout {order.layout} is for GPUs, and none can be seen")
        return Plan("auto", (Replica(1),), notes=("No GPU can be seen: one rank renders on the processors.",))
    gpus = _chosen(order, gpus)
    if order.layout == "auto":
        return _auto(order, gpus)
    layouts = {"throughput": _throughput, "latency": _latency, "latency-shared": _latency_shared}
    made = layouts[order.layout](order, gpus)
    too_small = _too_small(order.demand, made.replicas, gpus)
    if too_small:
        raise ImpossiblePlan(f"{too_small[0]} {_what_would_do(order.demand, gpus)}")
    return made


def _explicit(order: Order, gpus: Sequence[Gpu], *, replicas: int, ranks: int) -> Plan:
    """As it was ordered: what is known of memory is a warning here, and no more."""
    if not gpus:
        return Plan(order.layout, (Replica(ranks),) * replicas)
    places = order.places or tuple(gpu.index for gpu in gpus[: replicas * ranks])
    if len(places) != replicas * ranks:
        raise ImpossiblePlan(
            f"layout {order.layout} takes {replicas * ranks} GPUs, one for each rank, and there are {len(places)}. "
            "For two ranks to share one, name the GPU of each rank, such as [0, 0, 1]; to render on processors, set "
            "the device to cpu."
        )
    _chosen(order, gpus)
    made = tuple(Replica(ranks, places[start : start + ranks]) for start in range(0, len(places), ranks))
    for replica in made:
        of_dit = replica.gpus[-dit_ranks_of(ranks) :]
        if len(set(of_dit)) < len(of_dit):
            raise ImpossiblePlan(f"two DiT ranks of one replica cannot share a GPU, as in {list(replica.gpus)}")
    return Plan(order.layout, made, notes=tuple(_too_small(order.demand, made, gpus)))


def _chosen(order: Order, gpus: Sequence[Gpu]) -> Sequence[Gpu]:
    """The GPUs that may be used."""
    if order.places is None:
        return gpus
    by_index = {gpu.index: gpu for gpu in gpus}
    absent = [place for place in order.places if place not in by_index]
    if absent:
        raise ImpossiblePlan(f"there is no GPU {absent[0]}: {_in_words(gpus)} can be seen")
    return [by_index[place] for place in dict.fromkeys(order.places)]


def _auto(order: Order, gpus: Sequence[Gpu]) -> Plan:
    candidates = _for_throughput(order, gpus) if order.goal is Goal.THROUGHPUT else _for_latency(order, gpus)
    for candidate in candidates:
        if not _too_small(order.demand, candidate.replicas, gpus):
            unused = _in_words([gpu for gpu in gpus if all(gpu.index not in one.gpus for one in candidate.replicas)])
            return replace(candidate, notes=(f"Not used: {unused}.",) if unused else ())
    raise ImpossiblePlan(
        f"the {order.demand.preset} preset does not fit {_in_words(gpus)}. {_what_would_do(order.demand, gpus)}"
    )


def _for_throughput(order: Order, gpus: Sequence[Gpu]) -> list[Plan]:
    """All on one, on each GPU that is large enough; where none is, a GPU for the DiT and one for the rest."""
    large = [gpu for gpu in gpus if order.demand.fits([Role.ALL], gpu)]
    if large:
        return [_throughput(order, large)]
    pairs = tuple(Replica(2, (one.index, other.index)) for one, other in zip(gpus[::2], gpus[1::2], strict=False))
    return [Plan(f"{len(pairs)}x2", pairs)] if pairs else []


def _for_latency(order: Order, gpus: Sequence[Gpu]) -> list[Plan]:
    """The most DiT ranks first; among as many, where the VAE has a GPU to itself."""
    layouts = [_latency(order, gpus), _latency_shared(order, gpus), _throughput(order, gpus[:1])]
    return sorted(layouts, key=lambda one: -dit_ranks_of(one.replicas[0].ranks))


def _throughput(_order: Order, gpus: Sequence[Gpu]) -> Plan:
    return Plan("throughput", tuple(Replica(1, (gpu.index,)) for gpu in gpus))


def _latency(order: Order, gpus: Sequence[Gpu]) -> Plan:
    parts = _most_parts(order, at_most=len(gpus) - 1)
    return Plan("latency", (Replica(1 + parts, tuple(gpu.index for gpu in gpus[: 1 + parts])),))


def _latency_shared(order: Order, gpus: Sequence[Gpu]) -> Plan:
    """With one GPU there is nothing to gain from a second process."""
    parts = _most_parts(order, at_most=len(gpus))
    of_dit = tuple(gpu.index for gpu in gpus[: max(1, parts)])
    return Plan("latency-shared", (Replica(1 + parts, (of_dit[0], *of_dit)) if parts > 1 else Replica(1, of_dit),))


def _most_parts(order: Order, *, at_most: int) -> int:
    """The most DiT ranks that can share the picture, 0 where there is room for none."""
    height, width = order.picture
    dit = preset(order.demand.preset).dit
    parts = (parts for parts in range(1, at_most + 1) if cut_side(dit, height=height, width=width, parts=parts))
    return max(parts, default=0)


def _too_small(demand: Demand, replicas: Sequence[Replica], gpus: Sequence[Gpu]) -> list[str]:
    """A sentence for each GPU that cannot hold what is to lie on it."""
    said = []
    for gpu in gpus:
        roles = [role for one in replicas for role, at in zip(one.roles, one.gpus, strict=True) if at == gpu.index]
        if roles and not demand.fits(roles, gpu):
            taken = f"{demand.gib(roles, gpu):.0f} GiB are taken by {' and '.join(roles)}"
            said.append(f"{_in_words([gpu])} is too small: {taken}.")
    return said


def _what_would_do(demand: Demand, gpus: Sequence[Gpu]) -> str:
    """Which other options fit everything on one of these GPUs."""
    for precision, memory in ((Precision.FP8, MemoryUse.AMPLE), (Precision.FP8, MemoryUse.LOW)):
        other = replace(demand, precision=precision, memory=memory)
        if any(multiplies_fp8(gpu.capability) and other.fits([Role.ALL], gpu) for gpu in gpus):
            low = " with low memory" if memory is MemoryUse.LOW else ""
            return f"Precision {precision}{low} would fit on one GPU ({other.gib([Role.ALL], gpus[0]):.0f} GiB)."
    least = replace(demand, precision=Precision.FP8, memory=MemoryUse.LOW)
    return f"The least that one GPU takes is {least.gib([Role.ALL], gpus[0]):.0f} GiB, with fp8 and low memory."


def _cost_of_precision(demand: Demand, used: Sequence[Gpu]) -> list[str]:
    """What it costs to ask for low memory and for a precision that does without the half of it."""
    if demand.memory is not MemoryUse.LOW or demand.precision is not Precision.FULL:
        return []
    for gpu in used:
        asked, chosen = (one.gib([Role.ALL], gpu) for one in (demand, replace(demand, precision=None)))
        if asked > chosen:
            return [
                f"{Precision.FULL} was asked for: everything takes {asked:.0f} GiB of a GPU, and {chosen:.0f} in "
                f"{Precision.FP8}, which low memory chooses by itself."
            ]
    return []


def _replica_in_words(replica: Replica) -> str:
    ranks = f"{replica.ranks} rank{'s' if replica.ranks > 1 else ''}"
    if not replica.gpus:
        return f"{ranks} on processors"
    return f"{ranks} on GPU{'s' if replica.ranks > 1 else ''} {' '.join(map(str, replica.gpus))}"


def _in_words(gpus: Sequence[Gpu]) -> str:
    return ", ".join(
        f"GPU {gpu.index} ({gpu.name}{'' if gpu.memory_bytes is None else f', {gpu.memory_bytes / GIB:.0f} GiB'})"
        for gpu in gpus
    )
