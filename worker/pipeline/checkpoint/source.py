"""Where the networks get their weights.

Knows what a source of weights owes a network, and the simplest source: tensors in memory under the released names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from worker.pipeline.checkpoint.fill import Place, fill_from, put, wanted_shapes
from worker.pipeline.checkpoint.names import Network, released_names
from worker.pipeline.checkpoint.readers import GivenTensors


class WeightSource(Protocol):
    """Fills networks that were built on the meta device."""

    def fill(
        self,
        module: nn.Module,
        network: Network,
        *,
        device: torch.device,
        dtype: torch.dtype,
        place: Place = put,
        on_host: Collection[str] = (),
    ) -> None:
        """Gives every parameter and kept buffer of `module` its numbers, on `device`, without gradients.

        Floating numbers become `dtype`. Each tensor goes to `place` as it arrives, one after the other, which makes
        it a parameter unless told otherwise: a caller that keeps it in another form never has all of them in this one.
        Those that `on_host` names stay on the host instead, as a view of their file where it has the wanted type: the
        system reads and drops it as it sees fit, and nobody may write into the file.
        Raises `CheckpointError` and leaves the module alone when the weights are absent, broken, or do not fit.
        """
        ...

    def tokenizer_directory(self) -> Path | None:
        """The files of the text encoder's tokenizer; None where the weights know no vocabulary.

        Raises `CheckpointNotFound`.
        """
        ...


class GivenWeights:
    """Weights in memory, by network and under the keys of a released file."""

    def __init__(self, tensors: Mapping[Network, Mapping[str, Tensor]]) -> None:
        self._tensors = tensors

    def fill(
        self,
        module: nn.Module,
        network: Network,
        *,
        device: torch.device,
        dtype: torch.dtype,
        place: Place = put,
        on_host: Collection[str] = (),
    ) -> None:
        """As `WeightSource.fill`."""
        reader = GivenTensors(self._tensors[network], origin=f"the given weights of the {network}")
        name_of = released_names(network, wanted_shapes(module))
        fill_from(module, reader, name_of=name_of, device=device, dtype=dtype, place=place, on_host=on_host)

    def tokenizer_directory(self) -> Path | None:
        """None: there are no files."""
        return None
