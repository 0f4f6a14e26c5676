"""Runs the DiT's fast path in Triton's interpreter and compares it with the plain one. Prints how many cases held.

A process of its own, since Triton decides when imported whether kernels are interpreted.
`python -m tests.unit.pipeline.interpreted_dit_rows` with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from tests.unit.pipeline.test_denoiser import PROMPT_ROWS, SIZE, Inputs
from worker.pipeline.checkpoint import Network, RandomWeights
from worker.pipeline.config import DiTConfig
from worker.pipeline.denoiser import Denoiser, read_times, whole_picture
from worker.pipeline.dit import row_kernels
from worker.pipeline.dit.attention import CrossAttention, SelfAttention
from worker.pipeline.dit.dit import DiT
from worker.pipeline.dit.fast_kernels import FOLDED_KEYS, FastKernels, FoldedKeys, quantized
from worker.pipeline.dit.kernels import Kernels, RowNorm, Rows
from worker.pipeline.dit.rope import Turn
from worker.pipeline.dit.row_kernels import FP8, FP8_LARGEST
from worker.pipeline.dit.self_attend import TorchAttention
from worker.pipeline.parallel import SequenceParallel
from worker.pipeline.schedule import denoising_steps

CONFIG = DiTConfig(
    dim=96,
    ffn_dim=160,
    num_heads=3,
    num_layers=3,
    text_dim=12,
    text_len=10,
    audio_dim=8,
    audio_layers=3,
    audio_inject_layers=(0, 2),
    freq_dim=16,
)
"""Neither channels nor heads are powers of two."""

CPU = torch.device("cpu")


S, D, E, HEADS, CHANNELS = 10, 96, 160, 3, 32
"""Rows, channels, wider channels: two latent frames of five tokens."""

TOLERANCE = {torch.float32: 4e-6, torch.bfloat16: 4e-2}
"""Of values around one; bfloat16 has 8 bits, and both paths round."""

PLAIN = Kernels()


def cases() -> Iterator[Callable[[torch.dtype], None]]:
    yield from (check_norms, check_gelu, check_projections, check_cross_attention, check_heads, check_turned_keys)


def check_norms(dtype: torch.dtype) -> None:
    fast, x, y, gate = fast_kernels(dtype), drawn(S, D, dtype=dtype), drawn(S, D, dtype=dtype), drawn(D)
    for of_frames in ((D,), (2, D)):
        norm = RowNorm(drawn(*of_frames), drawn(*of_frames), 1e-6)
        near(fast.norm(x, norm).values, PLAIN.norm(x, norm).values)
        for maybe_gate in (None, gate):
            wanted, wanted_rows = PLAIN.add_norm(x.clone(), y, norm, gate_D=maybe_gate)
            made, made_rows = fast.add_norm(x.clone(), y, norm, gate_D=maybe_gate)
            near(made, wanted)
            near(made_rows.values, wanted_rows.values)


def check_gelu(dtype: torch.dtype) -> None:
    x = drawn(S, E, dtype=dtype)
    made, _ = row_kernels.gelu(x, out_dtype=dtype)
    near(made, nn.functional.gelu(x.float(), approximate="tanh").to(dtype))


def check_projections(dtype: torch.dtype) -> None:
    """Of one rank, and of three with a head each."""
    layer, packed = SelfAttention(CONFIG, PLAIN), SelfAttention(CONFIG, PLAIN)
    randomise(layer, dtype)
    packed.to(dtype).load_state_dict(layer.state_dict())
    fast = fast_kernels(dtype)
    fast.pack(packed)
    rows, turn = Rows(drawn(S, D, dtype=dtype)), Turn(drawn(S, CHANNELS // 2), drawn(S, CHANNELS // 2))
    for ranks in (1, 3):
        wanted, made = (torch.full((3, ranks, S, HEADS // ranks, CHANNELS), 9.0, dtype=dtype) for _ in range(2))
        for kernels, attention, out in ((PLAIN, layer, wanted), (fast, packed, made)):
            kernels.project(rows, attention, turn, q_PShK=out[0], k_PShK=out[1], v_PShK=out[2])
        near(made, wanted)


def check_cross_attention(dtype: torch.dtype) -> None:
    """All tokens to a prompt, each frame to its own sound, and a prompt too long to be folded."""
    if dtype is torch.bfloat16:
        return  # the interpreter multiplies its 16 bits as if they were whole numbers; `tests.gpu.dit` does this one
    layer, fast, rows = CrossAttention(CONFIG, PLAIN), fast_kernels(dtype), Rows(drawn(S, D, dtype=dtype))
    randomise(layer, dtype)
    for frames, keys in ((1, 7), (2, 5), (1, 20), (1, FOLDED_KEYS + 1)):
        context, bias = drawn(frames, keys, D, dtype=dtype), drawn(keys)
        read = fast.read_keys(context, layer, bias_T=bias)
        assert isinstance(read, FoldedKeys) == (keys <= FOLDED_KEYS)
        near(fast.cross(rows, layer, read), PLAIN.cross(rows, layer, PLAIN.read_keys(context, layer, bias_T=bias)))


def check_heads(dtype: torch.dtype) -> None:
    for ranks in (1, 3):
        o = drawn(ranks, S, HEADS // ranks, CHANNELS, dtype=dtype)
        near(row_kernels.merged(o, out_dtype=dtype)[0], PLAIN.merge(o).values)


def check_turned_keys(dtype: torch.dtype) -> None:
    """Into slices of a longer cache, and in place."""
    still, turn = drawn(3, 5, HEADS, CHANNELS, dtype=dtype), Turn(*(drawn(1, CHANNELS // 2) for _ in range(2)))
    wanted, made = torch.zeros(3, 12, HEADS, CHANNELS, dtype=dtype), torch.zeros(3, 12, HEADS, CHANNELS, dtype=dtype)
    PLAIN.turn_keys(still, turn, out_NLhK=wanted[:, :5])
    fast = fast_kernels(dtype)
    fast.turn_keys(still, turn, out_NLhK=made[:, :5])
    near(made, wanted)
    fast.turn_keys(still, turn, out_NLhK=still)
    near(still, wanted[:, :5])


def check_rows_in_8_bits() -> None:
    """What comes out of every kernel that rounds to 8 bits, times its scale, is what went in; so is a weight.

    The interpreter halves some numbers when it rounds them to 8 bits (a carry is lost), hence the limit by the mean.
    """
    x, ones = drawn(S, D), torch.ones(D)
    x[3] = 0.0
    plain = nn.functional.layer_norm(x, (D,))
    for exact, (values, scales) in (
        (plain, row_kernels.normed(x, None, None, ones, torch.zeros(D), eps=1e-5, out_dtype=FP8)),
        (x, row_kernels.merged(x.view(1, S, HEADS, CHANNELS), out_dtype=FP8)),
        (nn.functional.gelu(x, approximate="tanh"), row_kernels.gelu(x, out_dtype=FP8)),
    ):
        assert scales is not None
        assert scales.shape == (S, 1)
        assert values.float().abs().amax(1)[exact.abs().amax(1) > 0].eq(FP8_LARGEST).all(), "the range is not used"
        assert (values.float() * scales - exact).norm() < 0.1 * exact.norm()
    values, scales_1E = quantized(x.T.contiguous())
    torch.testing.assert_close(values.float() * scales_1E.T, x.T, rtol=0.07, atol=0.002)


def check_blocks() -> None:
    for prompt_rows, blocks in ((PROMPT_ROWS, 2), (CONFIG.text_len, 1)):
        made = (blocks_of(kernels, blocks=blocks, prompt_rows=prompt_rows) for kernels in (PLAIN, fast_kernels()))
        for wanted, block in zip(*made, strict=True):
            torch.testing.assert_close(block, wanted, rtol=0, atol=4e-6)


def fast_kernels(dtype: torch.dtype = torch.float32) -> FastKernels:
    return FastKernels(TorchAttention(), row_dtype=dtype, cache_dtype=dtype)


def blocks_of(kernels: Kernels, *, blocks: int, prompt_rows: int) -> list[Tensor]:
    with torch.device("meta"):
        dit = DiT(CONFIG, kernels)
    RandomWeights(4).fill(dit, Network.DIT, device=CPU, dtype=torch.float32, place=kernels.place)
    kernels.pack(dit)
    strips, steps = whole_picture(*SIZE), denoising_steps(2)
    denoiser = Denoiser(
        dit,
        times=read_times(dit, steps),
        strips=strips,
        strip=strips[0],
        sequence=SequenceParallel(size=1, group=None),
    )
    inputs = Inputs(torch.float32)
    inputs.prompt = torch.randn(inputs.prompt.shape, generator=torch.Generator().manual_seed(5))
    inputs.prompt[prompt_rows:] = 0
    denoiser.start(inputs.reference, prompt=inputs.prompt, prompt_rows=prompt_rows)
    windows = inputs.windows()
    return [denoiser.denoise(b, window=windows[b], noise=inputs.noise, steps=steps) for b in range(blocks)]


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(dtype)


def randomise(module: nn.Module, dtype: torch.dtype) -> None:
    for parameter in module.to(dtype).parameters():
        nn.init.normal_(parameter, std=0.2)


def near(made: Tensor, wanted: Tensor) -> None:
    assert made.dtype is wanted.dtype
    tolerance = TOLERANCE[made.dtype]
    torch.testing.assert_close(made, wanted, rtol=tolerance, atol=tolerance)


if __name__ == "__main__":
    assert os.environ.get("TRITON_INTERPRET") == "1", "set TRITON_INTERPRET=1"
    torch.manual_seed(0)
    with torch.no_grad():
        held = [case(dtype) for case in cases() for dtype in (torch.float32, torch.bfloat16)]
        check_rows_in_8_bits()
        check_blocks()
    print(f"{len(held)} cases held")
