"""Runs the VAE's Triton kernels in Triton's interpreter and compares each with plain torch. Prints how many cases held.

A process of its own, since Triton decides when imported whether kernels are interpreted, and diffusers imports it.
`python -m tests.unit.pipeline.interpreted_vae_rows` with TRITON_INTERPRET=1.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from torch import Tensor

from worker.pipeline.checkpoint import Network, RandomWeights
from worker.pipeline.vae_packed.decoder import PackedDecoder, Place
from worker.pipeline.vae_packed.packing import pack_decoder
from worker.pipeline.vae_packed.rows import Cells, Frames, Pending, Products, Rows
from worker.pipeline.vae_packed.triton_rows import TritonRows

CPU = torch.device("cpu")
HEIGHT, WIDTH = 2, 4
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Of values around one; bfloat16 has 8 bits, and both sides round."""

Call = Callable[[Rows, Pending, Tensor, Tensor], object]
CALLS: dict[str, Call] = {
    "total": lambda rows, x, norm, cache: rows.total(x),
    "normed": lambda rows, x, norm, cache: rows.normed(x, norm),
    "activated": lambda rows, x, norm, cache: rows.activated(x, norm),
    "taps": lambda rows, x, norm, cache: rows.taps(x, cache),
    "pairs": lambda rows, x, norm, cache: rows.pairs(x, norm, cache),
    "total_and_pairs": lambda rows, x, norm, cache: rows.total_and_pairs(x, norm, cache),
}


@dataclass(frozen=True)
class Case:
    call: str
    source: str
    channels: int
    frames: int
    dtype: torch.dtype
    bias: bool
    residual: bool


def cases() -> Iterator[Case]:
    """Every call on every source; widths, lengths and precisions in turn."""
    sizes = itertools.cycle(
        [(96, 2, torch.bfloat16), (192, 4, torch.bfloat16), (384, 1, torch.float32), (6, 8, torch.bfloat16),
         (96, 4, torch.float32), (384, 2, torch.bfloat16), (20, 1, torch.bfloat16)]
    )  # fmt: skip
    biases = itertools.cycle((True, False))
    for call, source in itertools.product(CALLS, ("frames", "products", "cells", "doubled cells")):
        for bias, residual in ((True, True), (next(biases), False)):
            channels, frames, dtype = next(sizes)
            frames += frames % 2 if source == "doubled cells" else 0
            yield Case(call, source, channels, frames, dtype, bias, residual)


def given(case: Case, device: torch.device) -> tuple[Pending, Tensor, Tensor]:
    """What to sum, the norm's weights and the cache; new tensors, the same at every call."""
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int, dtype: torch.dtype = case.dtype) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    whole = (case.frames, HEIGHT, WIDTH, case.channels)
    cells = (case.frames, HEIGHT // 2 + 1, WIDTH // 2 + 1, 4 * case.channels)
    pairs = ((case.frames + 1) // 2, *whole[1:])
    source = {
        "frames": lambda: Frames(draw(*whole)),
        "products": lambda: Products((draw(*pairs), draw(*pairs), draw(*pairs), draw(*pairs)), case.frames),
        "cells": lambda: Cells(draw(*cells), 1),
        "doubled cells": lambda: Cells(draw(*cells), 2),
    }[case.source]()
    bias = draw(case.channels, dtype=torch.float32) if case.bias else None
    x = Pending(source, bias, draw(*whole) if case.residual else None)
    return x, draw(case.channels, dtype=torch.float32), draw(2, *whole[1:])


def check(case: Case, device: torch.device) -> None:
    """What comes back, and what is left in the cache."""
    outcomes = []
    for rows in (Rows(), TritonRows()):
        x, norm, cache = given(case, device)
        outcomes.append((CALLS[case.call](rows, x, norm, cache), cache))
    limit = TOLERANCE[case.dtype]
    torch.testing.assert_close(*outcomes, rtol=limit, atol=limit, msg=lambda text: f"{case}: {text}")


def check_last_sum(dtype: torch.dtype, device: torch.device) -> None:
    planes = torch.randn(81, 3, 4, 5, generator=torch.Generator().manual_seed(1)).to(device, dtype) / 5
    bias = torch.tensor([0.5, -0.25, 0.0], device=device)
    torch.testing.assert_close(TritonRows().pixels(planes, bias), Rows().pixels(planes, bias))
    both = [rows.bytes_of_pixels(planes, bias).int() for rows in (TritonRows(), Rows())]
    assert (both[0] - both[1]).abs().max() <= 1, "a byte may fall on either side of a border, not further"
    assert (both[0] != both[1]).float().mean() < 0.01


def check_whole_decoder() -> None:
    """Kernels that write over what they read, one after the other."""
    network = AutoencoderKLWan(base_dim=4)
    RandomWeights(1).fill(network, Network.VAE, device=CPU, dtype=torch.float32)
    weights = pack_decoder(network)
    z = torch.randn(4, 1, 2, 16, generator=torch.Generator().manual_seed(0))
    streams = []
    for rows in (Rows(), TritonRows()):
        decoder = PackedDecoder(weights, rows)
        caches = decoder.new_caches(1, 2)
        pieces = ((z[:1], Place.FIRST), (z[1:2], Place.LATER), (z[2:], Place.LATER))
        made = [decoder.planes(piece, caches, place=place) for piece, place in pieces]
        streams.append(torch.cat([rows.pixels(planes, decoder.head_bias) for planes in made]))
    assert streams[0].shape == (13, 8, 16, 3)
    torch.testing.assert_close(*streams, rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
    assert os.environ.get("TRITON_INTERPRET") == "1", "set TRITON_INTERPRET=1"
    with torch.no_grad():
        held = [check(case, CPU) for case in cases()]
        check_last_sum(torch.float32, CPU)
        check_last_sum(torch.bfloat16, CPU)
        check_whole_decoder()
    print(f"{len(held)} cases held")
