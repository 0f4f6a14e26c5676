"""A process of its own that loads a text encoder both ways, encodes a prompt, and prints what of it is its memory."""

import re
import sys
from pathlib import Path

import torch

from worker.pipeline.checkpoint import ReleasedWeights
from worker.pipeline.config import TextEncoderConfig, Tokenizer
from worker.pipeline.precision import MemoryUse
from worker.pipeline.text_encoder import TextEncoder

SIZES = TextEncoderConfig(
    vocab_size=40_000, dim=1024, dim_attn=1024, dim_ffn=2048, num_heads=8, num_layers=2, tokenizer=Tokenizer.BYTES
)
WORDS_BYTES = 2 * 40_000 * 1024
BLOCKS_BYTES = 2 * 2 * (4 * 1024 * 1024 + 3 * 1024 * 2048)


def main() -> None:
    """For low memory and then for ample: bytes of its own, and the sum over the embedding."""
    directory = Path(sys.argv[1])
    torch.ones(64, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)
    for memory in (MemoryUse.LOW, MemoryUse.AMPLE):
        before = _own_bytes()
        encoder = TextEncoder(
            SIZES,
            device=torch.device("cpu"),
            dtype=torch.bfloat16,
            weights=ReleasedWeights(directory),
            memory=memory,
        )
        rows = encoder.encode("lips").rows
        print(_own_bytes() - before, float(rows.double().abs().sum()))


def _own_bytes() -> int:
    """Without pages of files, which the system may drop."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
