"""Norms, head and rotary positions one by one against `units.*`, on inputs small enough for every eps to show."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.parity.dit import dit_config
from tests.parity.golden import (
    FLOAT32_RELATIVE,
    Difference,
    Result,
    difference,
    load_facts,
    load_tensors,
    result,
    with_prefix,
)
from worker.pipeline.config import DiTConfig
from worker.pipeline.dit.blocks import AdaIN, AudioInjector, Head
from worker.pipeline.dit.kernels import Kernels, RowNorm, exact_dtype, rms_norm, rotate
from worker.pipeline.dit.rope import Rope, TokenGrid, Turn, space_angles, token_angles

KERNELS = Kernels()


def check(directory: Path, dtype: torch.dtype) -> Result:
    facts = load_facts(directory, "units")
    tensors = {name: t.to(dtype) if t.dtype is torch.float32 else t for name, t in _tensors(directory)}
    dim = tensors["norm1.x"].shape[-1]
    heads = dim // facts["head_dim"]
    config = dit_config(load_facts(directory, "dit")["config"], dim=dim, num_heads=heads)
    differences = [
        *_norms(tensors, config),
        *_head(tensors, config),
        *_injection_norm(tensors, config),
        *_rope(facts, tensors, config),
    ]
    return result("units", differences, limit=FLOAT32_RELATIVE)


def _tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    yield from load_tensors(directory, "units").items()


def _norms(tensors: dict[str, Tensor], config: DiTConfig) -> Iterator[Difference]:
    x = tensors["norm1.x"]
    nothing = torch.zeros(config.dim, dtype=x.dtype)
    yield difference("layer norm", _normed(x, RowNorm(1 + nothing, nothing, config.eps)), tensors["norm1.out"])
    norm3 = nn.LayerNorm(config.dim, eps=config.eps).to(x.dtype)
    norm3.load_state_dict(with_prefix(tensors, "norm3.w."))
    affine = RowNorm(norm3.weight, norm3.bias, norm3.eps)
    yield difference("affine layer norm", _normed(tensors["norm3.x"], affine), tensors["norm3.out"])
    rms = rms_norm(tensors["rms.x"], tensors["rms.w.weight"], eps=config.eps)
    yield difference("RMS norm", rms, tensors["rms.out"])


def _head(tensors: dict[str, Tensor], config: DiTConfig) -> Iterator[Difference]:
    head = Head(config).to(tensors["head.x"].dtype)
    head.load_state_dict(with_prefix(tensors, "head.w."))
    out = head(KERNELS.norm(tensors["head.x"][0], head.modulate(tensors["head.e"][0])))
    yield difference("head", out[None], tensors["head.out"])


def _injection_norm(tensors: dict[str, Tensor], config: DiTConfig) -> Iterator[Difference]:
    x = tensors["adain.x"]
    injector = AudioInjector(config, KERNELS).to(x.dtype)
    adain = injector.injector_adain_layers[0]
    assert isinstance(adain, AdaIN)
    adain.load_state_dict(with_prefix(tensors, "adain.w."))
    tokens = x.new_zeros(x.shape[0], config.audio_tokens, config.dim)
    injection = injector.read(tensors["adain.temb"], tokens)[0]
    yield difference("norm of the audio injection", _normed(x, injection.norm), tensors["adain.out"])


def _rope(facts: dict[str, object], tensors: dict[str, Tensor], config: DiTConfig) -> Iterator[Difference]:
    assert list(config.rope_pairs) == facts["pairs_t_h_w"], "pairs of a head are split in another way"
    dtype = exact_dtype(tensors["norm1.x"].dtype)
    cases = facts["rope_cases"]
    assert isinstance(cases, list)
    for case in cases:
        name, _, size = str(case).partition(": ")
        frames, rows, columns = (int(n) for n in size.split("x"))
        first = int(name.removeprefix("t"))
        grid = TokenGrid(rows=range(rows), columns=range(columns))
        space = space_angles(config, grid, device=torch.device("cpu"))
        angles = token_angles(config, range(first, first + frames), space)
        yield difference(f"cosines at {name}", angles.cos(), tensors[f"rope.{name}.cos"])
        yield difference(f"sines at {name}", angles.sin(), tensors[f"rope.{name}.sin"])
        turn = Turn(angles.cos().to(dtype), angles.sin().to(dtype))
        yield difference(f"turned at {name}", _turned(tensors[f"rope.{name}.x"], turn), tensors[f"rope.{name}.out"])
    grid = TokenGrid(rows=range(1), columns=range(1))
    turn = Rope(config, grid, device=torch.device("cpu"), dtype=dtype).time_shift(1)
    yield difference("sink turned by one", _turned(tensors["rope.sink.x"], turn), tensors["rope.sink.out"])


def _turned(x: Tensor, turn: Turn) -> Tensor:
    return rotate(x[0], turn)[None]


def _normed(x: Tensor, norm: RowNorm) -> Tensor:
    return KERNELS.norm(x.flatten(0, 1), norm).values.view(x.shape)
