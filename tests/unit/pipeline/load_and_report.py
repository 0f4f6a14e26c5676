"""A process of its own that loads one network and prints by how many bytes its memory grew at most meanwhile."""

import re
import sys
from pathlib import Path

import torch
from torch import nn

from worker.pipeline.checkpoint.fill import fill_from, put
from worker.pipeline.checkpoint.readers import PickledTensors, SafetensorsFiles, TensorReader


def main() -> None:
    path, layers, width = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    with torch.device("meta"):
        module = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
    torch.zeros(10, dtype=torch.bfloat16).to(torch.float32)
    before = _bytes("VmRSS")
    reader: TensorReader = (
        SafetensorsFiles.from_index(path) if path.suffix == ".json" else PickledTensors(path, entry="generator")
    )
    fill_from(module, reader, name_of=lambda key: key, device=torch.device("cpu"), dtype=torch.bfloat16, place=put)
    assert all(float(layer.weight[0, 0]) == number for number, layer in enumerate(module))  # type: ignore[index]
    print(_bytes("VmHWM") - before)


def _bytes(line: str) -> int:
    """Of the kernel's account of this process; getrusage would count its parent's memory before exec as well."""
    found = re.search(rf"{line}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


main()
