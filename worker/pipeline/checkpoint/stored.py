"""Where the numbers of a tensor lie: a range of a safetensors file, or pages that are mapped already.

Knows the layout of a safetensors file behind its header. Reads nothing before it is asked to.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worker.pipeline.checkpoint.errors import CheckpointUnreadable
from worker.pipeline.checkpoint.streaming import ReadInto, Stored

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def stored_in(file: Path, opened: FileIO) -> Iterator[Stored]:
    """What a safetensors file holds, in the order of its numbers. Its header was found in order by `safe_open`."""
    header_bytes = int.from_bytes(opened.read(8), "little")
    header: dict[str, Any] = json.loads(opened.read(header_bytes))
    header.pop("__metadata__", None)
    for name, entry in sorted(header.items(), key=lambda one: one[1]["data_offsets"]):
        if entry["dtype"] not in _DTYPES:
            raise CheckpointUnreadable(file, f"{name} is of the type {entry['dtype']}, which no network here has")
        read_into = _file_range(file, opened, 8 + header_bytes + entry["data_offsets"][0])
        yield Stored(name, tuple(entry["shape"]), _DTYPES[entry["dtype"]], read_into)


def _file_range(file: Path, opened: FileIO, offset: int) -> ReadInto:
    def read_into(into: Tensor, start: int) -> None:
        left, at = into.numpy().data, offset + start
        while left:
            try:
                count = os.preadv(opened.fileno(), [left], at)
            except OSError as error:
                raise CheckpointUnreadable(file, f"cannot be read ({error.strerror})") from error
            if count == 0:
                raise CheckpointUnreadable(file, "became shorter while it was read")
            left, at = left[count:], at + count

    return read_into


def mapped(name: str, tensor: Tensor) -> Stored:
    numbers = tensor.contiguous().reshape(-1).view(torch.uint8)

    def read_into(into: Tensor, start: int) -> None:
        into.copy_(numbers[start : start + len(into)])

    return Stored(name, tuple(tensor.shape), tensor.dtype, read_into)
