"""A process of its own that loads a text encoder, encodes a prompt, and prints what of it is memory of its own."""

import re
import sys
from pathlib import Path

import torch

from worker.pipeline.checkpoint import ReleasedWeights
from worker.pipeline.config import TextEncoderConfig, Tokenizer
from worker.pipeline.precision import MemoryUse
from worker.pipeline.text_encoder import TextEncoder

SIZES = TextEncoderConfig(
    vocab_size=40_000, dim=1024, dim_attn=1024, dim_ffn=2048, num_heads=8, num_layers=3, tokenizer=Tokenizer.BYTES
)
WEIGHT_BYTES = 2 * (40_000 * 1024 + 3 * (4 * 1024 * 1024 + 3 * 1024 * 2048))


def main() -> None:
    directory, memory = Path(sys.argv[1]), MemoryUse(sys.argv[2])
    torch.ones(64, 64, dtype=torch.bfloat16) @ torch.ones(64, 64, dtype=torch.bfloat16)
    before = _own_bytes()
    encoder = TextEncoder(
        SIZES,
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
        weights=ReleasedWeights(directory),
        memory=memory,
    )
    embedding = encoder.encode("lips")
    own = _own_bytes() - before
    print(own, float(embedding.rows.double().abs().sum()))


def _own_bytes() -> int:
    """Without pages of files, which the system may drop."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


if __name__ == "__main__":
    main()
