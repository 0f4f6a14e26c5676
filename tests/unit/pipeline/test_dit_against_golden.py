"""The DiT's parts against small goldens of the reference (cut down: see `tests.parity` for whole sets)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.parity import audio_net, scheduler, units
from tests.parity.dit import dit_config
from tests.parity.golden import FLOAT32_RELATIVE, difference, load_facts, load_tensors, with_prefix
from tests.parity.parts import Check
from worker.pipeline.denoiser import whole_picture
from worker.pipeline.dit.attention import Call
from worker.pipeline.dit.dit import REFERENCE_MASK, DiT, TimeCondition
from worker.pipeline.dit.kernels import Kernels
from worker.pipeline.dit.kv_cache import KVCache
from worker.pipeline.dit.rope import Rope
from worker.pipeline.parallel import SequenceParallel
from worker.pipeline.sink_rotation import SinkRotation

GOLDEN = Path(__file__).parents[2] / "fixtures" / "golden"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("check", [audio_net.check, scheduler.check, units.check], ids=lambda c: c.__module__)
def test_part_computes_what_the_reference_computed(check: Check, dtype: torch.dtype) -> None:
    result = check(GOLDEN, dtype)
    assert result.within, result.line()


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_tensors(GOLDEN, "dit_block0")


class FirstLayer:
    """A network of one layer with the golden weights, and the cache and positions of the golden reference frame."""

    def __init__(self, golden: dict[str, Tensor]) -> None:
        config = dit_config(load_facts(GOLDEN, "dit")["config"], num_layers=1, audio_inject_layers=())
        self.dit = DiT(config)
        state = self.dit.state_dict() | with_prefix(golden, "w.")
        self.dit.load_state_dict(state)
        (strip,) = whole_picture(*golden["in.ref_latents"].shape[-2:])
        grid = strip.grid(config)
        self.cache = KVCache(
            config,
            tokens_per_frame=grid.tokens_per_frame,
            heads=config.num_heads,
            rotation=SinkRotation.EXACT,
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
        self.rope = Rope(config, grid, device=torch.device("cpu"), dtype=torch.float32)
        self.call = Call(
            slots=self.cache.reference_slots(),
            turn=self.rope.reference(),
            cache=self.cache,
            sequence=SequenceParallel(size=1, group=None),
        )
        block = self.dit._layers()[0]
        self.modulation = block.modulate(golden["out.tap.prefill.time_projection_e0.out"].view(6, -1))
        prompt = golden["in.prompt_embeds"][0]
        self.text = self.dit.read_text(prompt, prompt_rows=int(prompt.ne(0).any(-1).sum()))


def test_the_first_layer_computes_what_the_reference_computed(golden: dict[str, Tensor]) -> None:
    layer = FirstLayer(golden)
    block = layer.dit._layers()[0]
    seen: dict[str, Tensor] = {}
    for name in ("self_attn", "cross_attn", "ffn"):
        block.get_submodule(name).register_forward_hook(
            lambda _module, given, made, name=name: seen.update({f"{name}.in": given[0].values, f"{name}.out": made})
        )
    x = layer.dit._embed(golden["in.ref_latents"][0], mask=REFERENCE_MASK)
    seen["in"] = x
    norm = layer.modulation.attention.norm
    rows = layer.dit.kernels.norm(x, norm)
    seen["out"], _ = block(
        x, rows, modulation=layer.modulation, text=layer.text[0], layer=0, call=layer.call, following=norm
    )
    for name, made in seen.items():
        off = difference(name, made[None], golden[f"out.tap.prefill.block0.{name}"])
        assert off.relative <= FLOAT32_RELATIVE, off


def test_the_reference_frame_leaves_the_keys_of_the_reference(golden: dict[str, Tensor]) -> None:
    layer = FirstLayer(golden)
    time = TimeCondition(layers=(layer.modulation,), head=layer.dit.head.modulate(torch.zeros(layer.dit.config.dim)))
    layer.dit.write_reference(golden["in.ref_latents"][0], text=layer.text, time=time, call=layer.call)
    layer.cache.keep_reference()
    slots = layer.cache.reference_slots().read
    for kind, held in (("k", layer.cache.k_NGHK), ("v", layer.cache.v_NGHK)):
        off = difference(kind, held[0, slots][None], golden[f"out.kv.after_prefill.layer0.{kind}"])
        assert off.relative <= FLOAT32_RELATIVE, off
    for when, wanted in with_prefix(golden, "out.sink_k.layer0.after_block").items():
        layer.cache.turn_sink(int(when), rope=layer.rope, kernels=Kernels())
        off = difference(f"after block {when}", layer.cache.k_NGHK[0, slots][None], wanted)
        assert off.relative <= FLOAT32_RELATIVE, off
