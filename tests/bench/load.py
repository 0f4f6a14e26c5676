"""How fast weights load, against plain reading of the same files: `python -m tests.bench.load --gib 4`.

Writes shards of the released layout (the DiT's keys at the true width, with as many layers as the size asks for), and
reads them with a cold page cache (the system is asked to drop the files' pages) and a warm one. Plain reading is as
many readers as a load has, into one piece of memory again and again; the load builds the network on the device.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from worker.pipeline.checkpoint import Network, ReleasedWeights
from worker.pipeline.checkpoint.fill import wanted_shapes
from worker.pipeline.checkpoint.streaming import PIECE_BYTES, READERS
from worker.pipeline.compute import Compute
from worker.pipeline.config import DiTConfig, preset
from worker.pipeline.dit.dit import DiT
from worker.pipeline.dit.kernel_choice import choose_kernels
from worker.pipeline.precision import MemoryUse, Precision
from worker.pipeline.published import REALVIDEO

GIB = 2**30
SHARD_BYTES = 4 * GIB


@dataclass(frozen=True)
class Row:
    what: str
    cache: str
    seconds: float
    gb_per_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=4.0, help="size of the files, at least 1 (default: 4)")
    parser.add_argument("--directory", type=Path, help="where to write them (default: a temporary directory)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", type=Precision, choices=list(Precision), default=Precision.FULL)
    parser.add_argument("--json", type=Path, help="write what was measured here")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    compute = replace(Compute.on(device, precision=arguments.precision), dtype=torch.bfloat16, memory=MemoryUse.AMPLE)
    config = config_of(arguments.gib)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        files = write(config, Path(directory))
        size = sum(file.stat().st_size for file in files)
        print(f"{size / GIB:.1f} GiB in {len(files)} files, {config.num_layers} layers, to {device}")
        ways: dict[str, Callable[[], None]] = {
            "plain reading, 1 reader": lambda: read_plainly(files, readers=1),
            f"plain reading, {READERS} readers": lambda: read_plainly(files, readers=READERS),
            f"loading the DiT, {compute.precision}": lambda: load(config, Path(directory), compute),
            "safetensors' own way, tensor by tensor": lambda: open_safely(files, device),
        }
        load(config, Path(directory), compute)  # the first use of a device takes its time
        rows = [
            measured(what, way, files, cache=cache, size=size, device=device)
            for cache in ("cold", "warm")
            for what, way in ways.items()
        ]
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))


def config_of(gib: float) -> DiTConfig:
    """The 14b sizes with as many layers as fit; everything but the layers takes a GiB."""
    full = preset("14b").dit
    layers = max(1, min(full.num_layers, round((gib - 1.0) * GIB / (2 * 0.4e9))))
    injected = tuple(layer for layer in full.audio_inject_layers if layer < layers)
    return replace(full, num_layers=layers, audio_inject_layers=injected)


def write(config: DiTConfig, directory: Path) -> list[Path]:
    """As `realvideo weights convert` leaves them."""
    with torch.device("meta"):
        shapes = wanted_shapes(DiT(config))
    folder = directory / REALVIDEO
    folder.mkdir(parents=True)
    numbers = (torch.randn(2**20) * 0.02).to(torch.bfloat16)
    weight_map: dict[str, str] = {}
    held: dict[str, torch.Tensor] = {}
    files: list[Path] = []

    def flush() -> None:
        file = folder / f"model-{len(files) + 1:05}.safetensors"
        save_file(held, file, metadata={"format": "pt"})
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        weight_map.update(dict.fromkeys(held, file.name))
        files.append(file)
        held.clear()

    for name, shape in shapes.items():
        count = torch.Size(shape).numel()
        held[f"model.{name}"] = numbers.repeat(-(-count // len(numbers)))[:count].reshape(shape).contiguous()
        if sum(tensor.nbytes for tensor in held.values()) > SHARD_BYTES:
            flush()
    flush()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return files


def measured(
    what: str, way: Callable[[], None], files: list[Path], *, cache: str, size: int, device: torch.device
) -> Row:
    if cache == "cold":
        forget(files)
    began = time.monotonic()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.monotonic() - began
    row = Row(what, cache, seconds, size / 1e9 / seconds)
    print(f"{row.cache} cache  {row.what:45} {row.seconds:7.2f} s  {row.gb_per_s:6.2f} GB/s", flush=True)
    return row


def forget(files: list[Path]) -> None:
    """Ask the system to drop the pages of these files."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read_plainly(files: list[Path], *, readers: int) -> None:
    def read(file: Path, starts: range) -> None:
        into = bytearray(PIECE_BYTES)
        descriptor = os.open(file, os.O_RDONLY)
        for start in starts:
            os.preadv(descriptor, [into], start)
        os.close(descriptor)

    with ThreadPoolExecutor(readers) as pool:
        for file in files:
            size = file.stat().st_size
            parts = [range(n * PIECE_BYTES, size, readers * PIECE_BYTES) for n in range(readers)]
            list(pool.map(read, [file] * readers, parts))


def load(config: DiTConfig, directory: Path, compute: Compute) -> None:
    kernels = choose_kernels(compute)
    with torch.device("meta"):
        dit = DiT(config, kernels)
    ReleasedWeights(directory).fill(dit, Network.DIT, device=compute.device, dtype=compute.dtype, place=kernels.place)


def open_safely(files: list[Path], device: torch.device) -> None:
    for file in files:
        with safe_open(file, framework="pt", device=str(device)) as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                tensor = tensors.get_tensor(name)
                if device.type == "cpu":
                    tensor.clone()


if __name__ == "__main__":
    main()
