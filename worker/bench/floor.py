"""From counted work and the speed of each kind of it to the least time of a block.

Knows sums. What is counted says `work.py` for the DiT and `vae_work.py` for the VAE; how speeds are measured,
`ceilings.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from worker.bench.ceilings import Ceiling, fastest
from worker.bench.figures import Floor, Piece
from worker.bench.work import BlockWork

Readings = Sequence[Sequence[Ceiling]]
"""Ceilings read at several moments, before and after what they are compared with; their means count."""


def dit_floor(work: BlockWork, readings: Readings) -> Floor:
    """Of one block on one rank."""
    pieces = [piece(fastest(product.name, readings), calls=product.calls) for product in work.products]
    pieces.append(piece(fastest("attention", readings), calls=work.attention.calls))
    pieces.append(_traffic(fastest("traffic", readings), work.traffic))
    return whole(pieces)


def piece(ceiling: Ceiling, *, calls: int) -> Piece:
    """So many calls of one kind, at its ceiling."""
    return Piece(
        name=ceiling.name,
        shape=ceiling.shape,
        way=ceiling.way,
        calls=calls,
        us=ceiling.us,
        rate=ceiling.amount / ceiling.us / 1e6,
        ms=calls * ceiling.us / 1000,
    )


def whole(pieces: Sequence[Piece]) -> Floor:
    """One after the other."""
    return Floor(ms=sum(one.ms for one in pieces), pieces=tuple(pieces))


def _traffic(ceiling: Ceiling, traffic: float) -> Piece:
    us_per_gigabyte = 1e9 * ceiling.us / ceiling.amount
    return Piece(
        name="traffic",
        shape=f"{traffic / 1e9:.1f} GB",
        way=ceiling.way,
        calls=1,
        us=us_per_gigabyte,
        rate=ceiling.amount / ceiling.us / 1e6,
        ms=traffic / 1e9 * us_per_gigabyte / 1000,
    )
