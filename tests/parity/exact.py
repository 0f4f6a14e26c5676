"""Comparison of what has no rounding: integers, sizes, texts."""

from __future__ import annotations

from tests.parity.golden import Difference


def equal(what: str, made: object, golden: object) -> Difference:
    """No distance where both are equal, an infinite one, which names both, where they are not."""
    if made == golden:
        return Difference(what, 0.0, 0.0)
    return Difference(f"{what}: {made} instead of {golden}", float("inf"), float("inf"))
