"""The table of memory against the sizes of the networks: it says weights and cache, and a little that passes."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from re import Pattern

import pytest
import torch
from torch import nn

from worker.gpus import Gpu
from worker.memory_needs import GIB, Demand, Role
from worker.pipeline.audio_encoder import AudioEncoder
from worker.pipeline.checkpoint import Network
from worker.pipeline.config import PRESETS, Tokenizer
from worker.pipeline.dit.dit import DiT
from worker.pipeline.dit.kv_cache import KVCache
from worker.pipeline.precision import MemoryUse, Precision
from worker.pipeline.sink_rotation import SinkRotation
from worker.pipeline.text_encoder import TextEncoder
from worker.pipeline.vae import VideoAutoencoder

SIZES = PRESETS["14b"]
TOKENS_PER_FRAME = (480 // 16) * (640 // 16)
H200 = Gpu(0, "NVIDIA H200", None, (9, 0))
PASSING_GIB = 3.5
"""At most, of tensors that come and go."""
DECODING_GIB = 5.0
"""The VAE's caches and what passes through a block of it."""


class Weighing:
    """A source that gives no numbers and keeps the network it was asked to fill, and what of it is not for the GPU."""

    module: nn.Module
    on_host: Collection[str]

    def fill(self, module: nn.Module, network: Network, *, on_host: Collection[str] = (), **_: object) -> None:
        self.module, self.on_host = module, on_host

    def on_gpu(self, *, each: int) -> int:
        named = self.module.named_parameters()
        return sum(parameter.numel() * each for name, parameter in named if name not in self.on_host)

    def tokenizer_directory(self) -> None:
        return None


def bytes_of(module: nn.Module, *, in_8_bits: Sequence[Pattern[str]]) -> int:
    return sum(
        parameter.numel() * (1 if any(pattern.search(name) for pattern in in_8_bits) else 2)
        for name, parameter in module.named_parameters()
    )


def dit_gib(precision: Precision, memory: MemoryUse) -> float:
    """Weights and cache on one GPU, as the kernels for GPUs hold them."""
    kernels = pytest.importorskip("worker.pipeline.dit.fast_kernels", reason="needs Triton")
    in_8_bits = [] if precision is Precision.FULL else [kernels.HOT]
    if in_8_bits and memory is MemoryUse.LOW:
        in_8_bits.append(kernels.COLD)
    with torch.device("meta"):
        network = DiT(SIZES.dit)
    cache = KVCache(
        SIZES.dit,
        tokens_per_frame=TOKENS_PER_FRAME,
        heads=SIZES.dit.num_heads,
        rotation=SinkRotation.EXACT,
        device=torch.device("meta"),
        dtype=torch.float8_e4m3fn if precision is Precision.FP8_ATTENTION else torch.bfloat16,
    )
    cached = sum(value.nbytes for value in vars(cache).values() if isinstance(value, torch.Tensor))
    return (bytes_of(network, in_8_bits=in_8_bits) + cached) / GIB


def encoders_gib(memory: MemoryUse) -> float:
    text, audio, vae = Weighing(), Weighing(), Weighing()
    device = torch.device("cpu")
    sizes = replace(SIZES.text, tokenizer=Tokenizer.BYTES)
    TextEncoder(sizes, device=device, dtype=torch.bfloat16, weights=text, memory=memory)
    AudioEncoder(SIZES.audio, device=device, weights=audio)
    VideoAutoencoder(SIZES.vae, device=device, dtype=torch.bfloat16, weights=vae)
    return (text.on_gpu(each=2) + audio.on_gpu(each=4) + vae.on_gpu(each=2)) / GIB


@pytest.mark.parametrize("memory", MemoryUse)
@pytest.mark.parametrize("precision", Precision)
def test_a_dit_takes_its_weights_its_cache_and_a_little_more(precision: Precision, memory: MemoryUse) -> None:
    held = dit_gib(precision, memory)
    said = Demand("14b", precision, memory).gib([Role.DIT], H200)
    assert held + 0.5 < said < held + PASSING_GIB, f"{held:.2f} GiB are held"


@pytest.mark.parametrize("memory", MemoryUse)
def test_the_encoders_take_their_weights_and_what_passes(memory: MemoryUse) -> None:
    held = encoders_gib(memory)
    said = Demand("14b", None, memory).gib([Role.ENCODERS], H200)
    assert held + 0.5 < said < held + DECODING_GIB + 0.65, f"{held:.2f} GiB are held"


def test_the_manual_says_what_the_table_says() -> None:
    manual = (Path(__file__).parents[3] / "docs/operations.md").read_text()
    rows = [(precision, precision.value, MemoryUse.AMPLE) for precision in Precision]
    for precision, name, memory in [*rows, (None, "REALVIDEO_MEMORY=low", MemoryUse.LOW)]:
        demand = Demand("14b", precision, memory)
        figures = " | ".join(f"{demand.gib([role], H200):.1f}" for role in (Role.ALL, Role.DIT, Role.ENCODERS))
        assert f"| `{name}` | {figures} |" in manual


def test_bf16_leaves_room_for_what_passes_within_52_gib() -> None:
    held = dit_gib(Precision.FULL, MemoryUse.AMPLE) + encoders_gib(MemoryUse.AMPLE)
    assert held + PASSING_GIB < 52, f"{held:.2f} GiB are held"


def test_of_the_text_encoder_only_the_table_of_words_needs_no_gpu() -> None:
    ample = Weighing()
    sizes = replace(SIZES.text, tokenizer=Tokenizer.BYTES)
    TextEncoder(sizes, device=torch.device("cpu"), dtype=torch.bfloat16, weights=ample)
    whole = sum(parameter.nbytes // parameter.element_size() * 2 for parameter in ample.module.parameters())
    assert whole - ample.on_gpu(each=2) == 2 * sizes.vocab_size * sizes.dim


def test_low_memory_leaves_room_for_what_passes_within_26_gib() -> None:
    held = dit_gib(Precision.FP8, MemoryUse.LOW) + encoders_gib(MemoryUse.LOW)
    assert held + PASSING_GIB < 26, f"{held:.2f} GiB are held"
