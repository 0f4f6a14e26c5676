"""How golden files are read and how far a result is from them.

Knows the layout of a golden directory (tensors in NAME.safetensors, sizes in NAME.json) and nothing of the networks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

FLOAT32_RELATIVE = 2e-6
"""The relative limit where the golden result is in float32, whatever we compute in."""


@dataclass(frozen=True)
class Difference:
    """How far one tensor is from its golden twin."""

    what: str
    relative: float
    """L2 norm of the difference over that of the golden tensor."""
    absolute: float
    """Largest difference of any element."""


@dataclass(frozen=True)
class Result:
    """What one part of the network came to."""

    part: str
    relative: float
    absolute: float
    limit: float
    """Of `relative`; 0 where the result must be exact."""
    worst: str
    """Which of the compared tensors was the worst."""

    @property
    def within(self) -> bool:
        return self.relative <= self.limit

    def line(self) -> str:
        verdict = "ok" if self.within else "OFF"
        return (
            f"{self.part:<24} {verdict:<4} relative {self.relative:.2e}  absolute {self.absolute:.2e}  "
            f"limit {self.limit:.0e}  worst: {self.worst}"
        )


def difference(what: str, result: Tensor, golden: Tensor) -> Difference:
    """Compared in float64. A result of another shape, or one that is not finite, is infinitely far."""
    if result.shape != golden.shape:
        return Difference(f"{what} (shape {list(result.shape)})", float("inf"), float("inf"))
    delta = result.double() - golden.double()
    if not bool(torch.isfinite(delta).all()):
        return Difference(f"{what} (not finite)", float("inf"), float("inf"))
    norm = golden.double().norm().item()
    error = delta.norm().item()
    relative = error / norm if norm else (0.0 if error == 0 else float("inf"))
    return Difference(what, relative, delta.abs().max().item() if delta.numel() else 0.0)


def result(part: str, differences: Iterable[Difference], *, limit: float) -> Result:
    """The worst of all differences of one part. There must be at least one."""
    compared = list(differences)
    worst = max(compared, key=lambda d: d.relative)
    return Result(
        part=part,
        relative=worst.relative,
        absolute=max(d.absolute for d in compared),
        limit=limit,
        worst=f"{worst.what} of {len(compared)}",
    )


def load_tensors(directory: Path, name: str) -> dict[str, Tensor]:
    return load_file(directory / f"{name}.safetensors")


def load_facts(directory: Path, name: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((directory / f"{name}.json").read_text())
    return facts


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
