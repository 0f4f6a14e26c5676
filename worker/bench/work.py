"""What one block costs at the least: products, attention and traffic, from sizes alone.

Knows the arithmetic of the DiT (specification, section 4); no tensors and no device. Counted is what any implementation
has to do, however it is written: the linears of the layers and self-attention as operations, and everything that works
on rows (norms, modulation, residuals, rotation, GELU, 8-bit rounding, attention over a few text or audio keys) as bytes
that have to pass through memory between two products when all such work between them is one pass.

Left out, each far below 1 %: patch embedding and head, the audio encoder, keys of text and audio, noise, and what ranks
of a group send each other.

Units: operations are FLOP (a multiply and an add are two), traffic is bytes read and written.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.pipeline.config import PIXELS_PER_LATENT, DiTConfig
from worker.pipeline.precision import Precision

BFLOAT16_BYTES = 2


@dataclass(frozen=True)
class Product:
    """A linear [rows, inputs] to [rows, outputs], and how often one block needs it."""

    name: str
    rows: int
    inputs: int
    outputs: int
    calls: int

    @property
    def flop(self) -> float:
        """Of one call."""
        return 2.0 * self.rows * self.inputs * self.outputs


@dataclass(frozen=True)
class AttentionWork:
    """Self-attention over a full cache, and how often one block needs it."""

    queries: int
    keys: int
    heads: int
    head_dim: int
    calls: int

    @property
    def flop(self) -> float:
        """Of one call."""
        return 4.0 * self.queries * self.keys * self.heads * self.head_dim


@dataclass(frozen=True)
class BlockWork:
    """One block of a running stream on one of the ranks that share it."""

    products: tuple[Product, ...]
    attention: AttentionWork
    traffic: float
    """Bytes of all row work of the block."""

    @property
    def flop(self) -> float:
        """Operations of the block that the floor counts."""
        return sum(p.flop * p.calls for p in self.products) + self.attention.flop * self.attention.calls


def tokens_per_frame(config: DiTConfig, *, height: int, width: int) -> int:
    """Tokens of one latent frame of a picture of so many pixels."""
    _, p, q = config.patch
    return (height // PIXELS_PER_LATENT // p) * (width // PIXELS_PER_LATENT // q)


def block_work(
    config: DiTConfig,
    *,
    height: int,
    width: int,
    steps: int,
    precision: Precision,
    parts: int = 1,
    full_bytes: int = BFLOAT16_BYTES,
) -> BlockWork:
    """A block of `steps` denoising steps and the context pass, on one of `parts` ranks.

    `full_bytes` are those of a number in the network's own dtype.
    """
    frame = tokens_per_frame(config, height=height, width=width)
    tokens = config.num_frame_per_block * frame
    rows, dim, layers = tokens // parts, config.dim, config.num_layers
    forwards, injections = steps + 1, len(config.audio_inject_layers)
    ends = injections_of_last_layer(config)
    return BlockWork(
        products=(
            Product("qkv", rows, dim, 3 * dim, forwards * layers),
            # self-attention's output, both sides of text attention and of audio attention
            Product("square", rows, dim, dim, forwards * (3 * layers + 2 * injections) - 3 - 2 * ends),
            Product("up", rows, dim, config.ffn_dim, forwards * layers - 1),
            Product("down", rows, config.ffn_dim, dim, forwards * layers - 1),
        ),
        attention=AttentionWork(
            queries=tokens,
            keys=config.sink_frames * frame + config.ring_blocks * tokens,
            heads=config.num_heads // parts,
            head_dim=config.head_dim,
            calls=forwards * layers - 1,
        ),
        traffic=_traffic(config, rows=rows, forwards=forwards, precision=precision, full=full_bytes),
    )


def network_flop(config: DiTConfig, *, height: int, width: int, steps: int) -> float:
    """All operations of a block as the network is defined, patch embedding, head and both small attentions included.

    The text attention counts all rows of the prompt, its padding too. Of the last layer of the context pass only the
    queries, keys and values are made.
    """
    frame = tokens_per_frame(config, height=height, width=width)
    tokens, dim = config.num_frame_per_block * frame, config.dim
    ends = injections_of_last_layer(config)
    last = 2.0 * tokens * dim * (3 * dim + 2 * config.ffn_dim + 2 * dim * ends + _cell(config))
    attended = config.sink_frames * frame + config.ring_blocks * tokens + config.text_len
    last += 4.0 * tokens * dim * (attended + config.audio_tokens * ends)
    return (steps + 1) * forward_flop(config, height=height, width=width) - last


def forward_flop(config: DiTConfig, *, height: int, width: int) -> float:
    """All operations of one forward, as in `network_flop`."""
    frame = tokens_per_frame(config, height=height, width=width)
    tokens, dim, layers = config.num_frame_per_block * frame, config.dim, config.num_layers
    injections = len(config.audio_inject_layers)
    keys = config.sink_frames * frame + config.ring_blocks * tokens
    linears = layers * (6 * dim * dim + 2 * dim * config.ffn_dim) + injections * 2 * dim * dim
    attended = layers * (keys + config.text_len) + injections * config.audio_tokens
    ends = dim * (_cell(config) + config.in_dim * _cells(config))
    return 2.0 * tokens * (linears + ends) + 4.0 * tokens * dim * attended


def injections_of_last_layer(config: DiTConfig) -> int:
    """1 where audio is injected behind the last layer, which the context pass leaves out, else 0."""
    return int(config.num_layers - 1 in config.audio_inject_layers)


def _traffic(config: DiTConfig, *, rows: int, forwards: int, precision: Precision, full: int) -> float:
    input_of_product = full if precision is Precision.FULL else 1
    cached = 1 if precision is Precision.FP8_ATTENTION else full
    norm = 3 * full + input_of_product  # residual and branch in, residual and normed row out
    split = 3 * full + 3 * cached  # queries, keys and values to where attention reads them
    rounding = 0 if precision is Precision.FULL else full + 1  # attention's output to the next product's input
    few_keys = full + input_of_product  # queries in, output out, their norm on the way
    gelu = (full + input_of_product) * config.ffn_dim / config.dim
    rest_of_layer = rounding + norm + few_keys + norm + gelu
    injection = norm + few_keys
    layers, injections = config.num_layers, len(config.audio_inject_layers)
    bytes_per_value = forwards * (layers * (norm + split + rest_of_layer) + injections * injection)
    bytes_per_value -= rest_of_layer + injections_of_last_layer(config) * injection
    return bytes_per_value * rows * config.dim


def _cells(config: DiTConfig) -> int:
    _, p, q = config.patch
    return p * q


def _cell(config: DiTConfig) -> int:
    """Numbers that the head makes of one token."""
    return _cells(config) * config.out_dim
