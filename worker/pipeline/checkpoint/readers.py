"""Files of weights, tensor by tensor.

Knows safetensors (one file or shards with an index) and PyTorch's zip pickles. Shapes are read from headers, without
the numbers; numbers go straight to the device, a few tensors at a time. A pickle is opened with `weights_only` and
mapped into memory: no code of the file runs, and its pages are the system's to drop.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from worker.pipeline.checkpoint.errors import CheckpointNotFound, CheckpointUnreadable
from worker.pipeline.checkpoint.stored import mapped, stored_in
from worker.pipeline.checkpoint.streaming import stream

Shape = tuple[int, ...]


class Hold(StrEnum):
    """What a module on the host has of its weights."""

    OWN = "own"
    """Memory of its own; the files may change or go."""
    MAPPED = "mapped"
    """Where a file has the wanted type, a view of it, which the system reads and drops as it sees fit. The file must
    stay as it is: to put another in its place is fine, to write into it is not."""


class TensorReader(Protocol):
    """A set of named tensors somewhere."""

    @property
    def origin(self) -> str:
        """What to call it in a message."""
        ...

    def shapes(self) -> Mapping[str, Shape]:
        """Every name with its shape. Reads no numbers."""
        ...

    def read(
        self, names: Iterable[str], *, device: torch.device, hold: Hold = Hold.OWN
    ) -> Iterator[tuple[str, Tensor]]:
        """The named tensors in the dtype of the file, in an order that suits the file."""
        ...


class GivenTensors:
    """Tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, Tensor], *, origin: str = "the given tensors") -> None:
        self._tensors = tensors
        self.origin = origin

    def shapes(self) -> Mapping[str, Shape]:
        """As `TensorReader.shapes`."""
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def read(
        self, names: Iterable[str], *, device: torch.device, hold: Hold = Hold.OWN
    ) -> Iterator[tuple[str, Tensor]]:
        """As `TensorReader.read`. Raises KeyError for a name that is not there."""
        for name in names:
            yield name, self._tensors[name].to(device, copy=hold is Hold.OWN)


class SafetensorsFiles:
    """One safetensors file, or the shards of a checkpoint."""

    def __init__(self, files: Iterable[Path], *, origin: str) -> None:
        self._files = tuple(files)
        self.origin = origin
        self._shapes: dict[Path, dict[str, Shape]] = {file: _safetensors_shapes(file) for file in self._files}

    @classmethod
    def from_index(cls, index: Path) -> SafetensorsFiles:
        """The shards that a `*.safetensors.index.json` names. Raises when one is absent or holds other keys."""
        try:
            weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise CheckpointUnreadable(index, f"not an index of shards ({error})") from error
        names = sorted(set(weight_map.values()))
        outside = [name for name in names if Path(name).name != name]
        if outside:
            raise CheckpointUnreadable(index, f"names files of other folders: {', '.join(outside)}")
        files = {name: index.parent / name for name in names}
        absent = [file for file in files.values() if not file.is_file()]
        if absent:
            raise CheckpointNotFound(f"shards of {index}", places=absent)
        reader = cls(files.values(), origin=str(index))
        found = {key: file.name for file, shapes in reader._shapes.items() for key in shapes}
        if found != weight_map:
            differing = sorted(set(found.items()) ^ set(weight_map.items()))
            key, shard = differing[0]
            raise CheckpointUnreadable(index, f"index and shards disagree, first about {key} in {shard}")
        return reader

    def shapes(self) -> Mapping[str, Shape]:
        """As `TensorReader.shapes`, of all files."""
        return {key: shape for shapes in self._shapes.values() for key, shape in shapes.items()}

    def read(
        self, names: Iterable[str], *, device: torch.device, hold: Hold = Hold.OWN
    ) -> Iterator[tuple[str, Tensor]]:
        """As `TensorReader.read`, one file after the other, each from its beginning to its end."""
        wanted = set(names)
        for file, shapes in self._shapes.items():
            here = {key for key in shapes if key in wanted}
            if not here:
                continue
            if hold is Hold.MAPPED and device.type == "cpu":
                with safe_open(file, framework="pt") as tensors:
                    for key in here:
                        yield key, tensors.get_tensor(key)
                continue
            with file.open("rb", buffering=0) as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
                yield from stream((one for one in stored_in(file, opened) if one.name in here), device=device)


class PickledTensors:
    """A file of `torch.save`, or one entry of the dict in it (`generator` of RealVideo's `model.pt`)."""

    def __init__(self, file: Path, *, entry: str | None = None) -> None:
        self.origin = str(file) if entry is None else f"{file} [{entry}]"
        self._tensors = _unpickled(file, entry=entry)

    def shapes(self) -> Mapping[str, Shape]:
        """As `TensorReader.shapes`."""
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def sizes(self) -> Mapping[str, int]:
        """Every name with the bytes of its numbers."""
        return {name: tensor.nbytes for name, tensor in self._tensors.items()}

    def read(
        self, names: Iterable[str], *, device: torch.device, hold: Hold = Hold.OWN
    ) -> Iterator[tuple[str, Tensor]]:
        """As `TensorReader.read`, in the order of the file."""
        wanted = set(names)
        here = {name: tensor for name, tensor in self._tensors.items() if name in wanted}
        if hold is Hold.MAPPED and device.type == "cpu":
            yield from here.items()
        else:
            yield from stream((mapped(name, tensor) for name, tensor in here.items()), device=device)


def _safetensors_shapes(file: Path) -> dict[str, Shape]:
    if not file.is_file():
        raise CheckpointNotFound(file.name, places=[file])
    try:
        with safe_open(file, framework="pt") as tensors:
            return {key: tuple(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointUnreadable(file, f"not a whole safetensors file ({error})") from error


def _unpickled(file: Path, *, entry: str | None) -> dict[str, Tensor]:
    if not file.is_file():
        raise CheckpointNotFound(file.name, places=[file])
    try:
        held: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointUnreadable(file, "holds more than tensors, which is not opened for safety") from error
    except (RuntimeError, EOFError) as error:
        raise CheckpointUnreadable(file, f"not a whole file of torch.save ({error})") from error
    if entry is not None:
        if not isinstance(held, dict) or entry not in held:
            raise CheckpointUnreadable(file, f"has no entry {entry!r}")
        held = held[entry]
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        raise CheckpointUnreadable(file, "is not a dict of tensors")
    return dict(held)
