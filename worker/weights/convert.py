"""Pickles of weights to safetensors, once, so that no worker ever opens a pickle again.

Knows which files are pickles, and shards. Keys and dtypes stay as they are; of `model.pt` only the generator is kept.
The index is written last: without it the loader still takes the pickle.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from worker.pipeline.checkpoint.readers import PickledTensors
from worker.pipeline.checkpoint.released import GENERATOR_ENTRY, INDEX_SUFFIX
from worker.pipeline.published import REALVIDEO, S2V, T2V, WAV2VEC2
from worker.weights.errors import DiskTooSmall
from worker.weights.manifest import FileRecord, Manifest, locked, sha256
from worker.weights.progress import FileProgress, OnProgress, Step, ignore

SHARD_BYTES = 2**30


@dataclass(frozen=True)
class Pickle:
    file: str
    entry: str | None = None


PICKLES = (
    Pickle(f"{REALVIDEO}/model.pt", entry=GENERATOR_ENTRY),
    Pickle(f"{S2V}/models_t5_umt5-xxl-enc-bf16.pth"),
    Pickle(f"{S2V}/Wan2.1_VAE.pth"),
    Pickle(f"{T2V}/Wan2.1_VAE.pth"),
    Pickle(f"{T2V}/models_t5_umt5-xxl-enc-bf16.pth"),
    Pickle(f"{WAV2VEC2}/pytorch_model.bin"),
)


def convert(directory: Path, *, shard_bytes: int = SHARD_BYTES, on_progress: OnProgress = ignore) -> tuple[Path, ...]:
    """The indexes of all pickles that had not been converted before. The pickles stay.

    Holds about two shards in memory. Raises `CheckpointError` and `WeightsError`.
    """
    made = []
    with locked(directory):
        for source in PICKLES:
            index = directory / f"{source.file.rpartition('.')[0]}{INDEX_SUFFIX}"
            if (directory / source.file).is_file() and not index.is_file():
                _convert_one(directory, source, index, shard_bytes=shard_bytes, on_progress=on_progress)
                made.append(index)
    return tuple(made)


def _convert_one(directory: Path, source: Pickle, index: Path, *, shard_bytes: int, on_progress: OnProgress) -> None:
    path = directory / source.file
    manifest = Manifest.read(directory)
    known = manifest.files.get(source.file)
    origin = known.sha256 if known else sha256(path, name=source.file, on_progress=on_progress)
    reader = PickledTensors(path, entry=source.entry)
    shards = list(_shards(reader.sizes(), shard_bytes))
    total, done = sum(reader.sizes().values()), 0
    free = shutil.disk_usage(directory).free
    if total > free:
        raise DiskTooSmall(directory, needed=total, free=free)
    weight_map: dict[str, str] = {}
    for number, keys in enumerate(shards, start=1):
        shard = path.with_name(f"{path.stem}-{number:05}-of-{len(shards):05}.safetensors")
        partial = shard.with_suffix(".safetensors.part")
        save_file(dict(reader.read(keys, device=torch.device("cpu"))), partial, metadata={"format": "pt"})
        partial.replace(shard)
        weight_map |= dict.fromkeys(keys, shard.name)
        done += sum(reader.sizes()[key] for key in keys)
        on_progress(FileProgress(Step.CONVERT, source.file, done, total))
        manifest = manifest.with_file(*_record(directory, shard, origin, on_progress))
    partial_index = index.with_suffix(".json.part")
    partial_index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=1))
    partial_index.replace(index)
    manifest.with_file(*_record(directory, index, origin, on_progress)).write(directory)


def _shards(sizes: Mapping[str, int], shard_bytes: int) -> Iterator[list[str]]:
    """Keys in their order, cut before a shard would grow beyond `shard_bytes`."""
    keys: list[str] = []
    filled = 0
    for key, size in sizes.items():
        if keys and filled + size > shard_bytes:
            yield keys
            keys, filled = [], 0
        keys.append(key)
        filled += size
    if keys:
        yield keys


def _record(directory: Path, made: Path, origin: str, on_progress: OnProgress) -> tuple[str, FileRecord]:
    name = made.relative_to(directory).as_posix()
    digest = sha256(made, name=name, on_progress=on_progress)
    return name, FileRecord(size=made.stat().st_size, sha256=digest, made_from=origin)
