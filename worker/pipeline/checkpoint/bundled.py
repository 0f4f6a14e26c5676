"""All networks of a small preset in one safetensors file.

Knows the file's keys: the name of a network, a slash, and the module's own name for the tensor. Such a preset reads the
bytes of a prompt, so there is no vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from worker.pipeline.checkpoint.errors import CheckpointNotFound
from worker.pipeline.checkpoint.fill import Place, fill_from, put
from worker.pipeline.checkpoint.names import Network
from worker.pipeline.checkpoint.readers import SafetensorsFiles


class BundledWeights:
    """Weights of one file. Raises `CheckpointNotFound` when it is not there, `CheckpointUnreadable` when broken."""

    def __init__(self, file: Path) -> None:
        if not file.is_file():
            raise CheckpointNotFound("the bundled weights", places=[file])
        self._reader = SafetensorsFiles([file], origin=str(file))

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
        prefix = _prefix(network)
        fill_from(
            module,
            self._reader,
            name_of=lambda key: key.removeprefix(prefix) if key.startswith(prefix) else None,
            device=device,
            dtype=dtype,
            place=place,
            on_host=on_host,
        )

    def tokenizer_directory(self) -> Path | None:
        """None: a prompt's bytes are its ids."""
        return None


def write_bundle(file: Path, tensors: Mapping[Network, Mapping[str, Tensor]], *, dtype: torch.dtype) -> None:
    """One file of all networks, whole or not at all; floating numbers as `dtype`."""
    named = {
        _prefix(network) + name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous().cpu()
        for network, own in tensors.items()
        for name, tensor in own.items()
    }
    unfinished = file.with_suffix(".part")
    save_file(named, unfinished)
    unfinished.replace(file)


def _prefix(network: Network) -> str:
    return f"{network.name.lower()}/"
