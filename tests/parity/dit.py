"""The DiT against `dit_*`: every block of two sessions, and what happens inside the first forwards.

Knows how the golden sessions were driven: noise and rows of sound come from the files, in the order in which the
reference asked for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.parity.golden import (
    Difference,
    Result,
    difference,
    load_facts,
    load_tensors,
    result,
    with_prefix,
)
from worker.pipeline.checkpoint import GivenWeights, Network
from worker.pipeline.config import FRAMES_PER_LATENT, DiTConfig
from worker.pipeline.denoiser import Denoiser, read_times, whole_picture
from worker.pipeline.dit.audio_net import ROWS_BEFORE, rows_for
from worker.pipeline.dit.dit import DiT
from worker.pipeline.dit.kernels import Rows
from worker.pipeline.parallel import SequenceParallel
from worker.pipeline.schedule import DenoisingStep, denoising_steps

AUDIO_LAYERS = 25
"""States mixed by the reference, a fixed number in its code."""

FLOAT32_LIMIT, FLOAT64_LIMIT = 2e-6, 1e-12
"""Of a block's latents, relative L2."""


def dit_config(sizes: Mapping[str, Any], **changed: Any) -> DiTConfig:
    """The sizes of a golden file, some of them changed."""
    known = {
        "dim": sizes["dim"],
        "ffn_dim": sizes["ffn_dim"],
        "num_heads": sizes["num_heads"],
        "num_layers": sizes["num_layers"],
        "text_dim": sizes["text_dim"],
        "text_len": sizes["text_len"],
        "audio_dim": sizes["audio_dim"],
        "audio_layers": AUDIO_LAYERS,
        "audio_inject_layers": tuple(sizes["audio_inject_layers"]),
        "freq_dim": sizes["freq_dim"],
        "in_dim": sizes["in_dim"],
        "out_dim": sizes["out_dim"],
        "num_audio_token": sizes["num_audio_token"],
        "eps": sizes["eps"],
    }
    return DiTConfig(**(known | changed))


def load_dit(directory: Path, dtype: torch.dtype) -> DiT:
    weights = load_tensors(directory, "dit_weights")
    mixed = weights["model.casual_audio_encoder.weights"].shape[1]
    config = dit_config(load_facts(directory, "dit")["config"], audio_layers=mixed)
    with torch.device("meta"):
        dit = DiT(config)
    GivenWeights({Network.DIT: weights}).fill(dit, Network.DIT, device=torch.device("cpu"), dtype=dtype)
    return dit


@dataclass
class GoldenSession:
    """A denoiser fed from a golden file. Noise goes on through a restart, so it is counted over all blocks made."""

    tensors: Mapping[str, Tensor]
    denoiser: Denoiser
    steps: tuple[DenoisingStep, ...]
    dtype: torch.dtype
    made: int = field(default=0)

    @classmethod
    def open(cls, directory: Path, name: str, dtype: torch.dtype, *, dit: DiT | None = None) -> GoldenSession:
        facts = load_facts(directory, "dit")[name]
        tensors = load_tensors(directory, name)
        dit = dit or load_dit(directory, dtype)
        steps = denoising_steps(facts["steps"])
        assert [step.timestep for step in steps] == facts["denoising_step_list"], "other timesteps than the golden"
        strips = whole_picture(*tensors["in.ref_latents"].shape[-2:])
        denoiser = Denoiser(
            dit,
            times=read_times(dit, steps),
            strips=strips,
            strip=strips[0],
            sequence=SequenceParallel(size=1, group=None),
        )
        return cls(tensors, denoiser, steps, dtype)

    def start(self, reference: str, prompt: str) -> None:
        embedded, rows = self._prompt(prompt)
        self.denoiser.start(self.tensors[reference][0].to(self.dtype), prompt=embedded, prompt_rows=rows)

    def change_prompt(self, prompt: str) -> None:
        embedded, rows = self._prompt(prompt)
        self.denoiser.change_prompt(embedded, prompt_rows=rows)

    def block(self, block: int, *, sound: str, latent: int) -> Tensor:
        """[c, f, h, w] of a block that hears the latent frames from `latent` on of a sound of the file."""
        window = window_at(self.tensors[sound][0].to(self.dtype), latent, rows_for(2))
        latents = self.denoiser.denoise(block, window=window, noise=self._noise, steps=self.steps)
        self.made += 1
        return latents

    def _noise(self, block: int, step: int) -> Tensor:
        noise = (
            self.tensors["in.noise_init"][self.made, 0]
            if step == 0
            else self.tensors["in.noise_re"][self.made].reshape(-1, *self.tensors["in.noise_init"].shape[2:])[step - 1]
        )
        return noise.transpose(0, 1).to(self.dtype)

    def _prompt(self, name: str) -> tuple[Tensor, int]:
        embedded = self.tensors[name][0]
        rows = int(embedded.ne(0).any(dim=-1).nonzero().max()) + 1
        return embedded.to(self.dtype), rows


def window_at(rows: Tensor, latent: int, length: int) -> Tensor:
    """Rows 4m - 5 and on for latent frame m, the first standing for all before it."""
    padded = torch.cat((rows[..., :1].expand(-1, -1, ROWS_BEFORE), rows), dim=-1)
    start = FRAMES_PER_LATENT * latent
    return padded[..., start : start + length]


def check_four_steps(directory: Path, dtype: torch.dtype) -> Result:
    facts = load_facts(directory, "dit")["dit_4step"]
    session = GoldenSession.open(directory, "dit_4step", dtype)
    golden = _golden_latents(session.tensors, "latents", dtype)
    session.start("in.ref_latents", "in.prompt_embeds")
    differences = [
        _block_difference(b, session.block(b, sound="in.audio_input", latent=pointer), golden[b])
        for b, pointer in enumerate(facts["audio_ptr"])
    ]
    return result("DiT blocks, 4 steps", differences, limit=_limit(dtype))


def check_two_steps(directory: Path, dtype: torch.dtype) -> Result:
    trace = load_facts(directory, "dit")["dit_2step"]["trace"]
    session = GoldenSession.open(directory, "dit_2step", dtype)
    golden = _golden_latents(session.tensors, "latents", dtype)
    again = _golden_latents(session.tensors, "latents_restart", dtype)
    sound, last, block = "", None, 0
    differences: list[Difference] = []
    for entry in trace:
        source = entry["source"]
        if source == last:
            pass
        elif isinstance(source, int):
            session.change_prompt(f"in.prompt_embeds.{source}")
            sound = f"in.audio_input.{source}"
        else:
            reference = "in.ref_latents_restart" if source == "restart" else "in.ref_latents"
            session.start(reference, "in.prompt_embeds.start")
            sound, block = "in.silence_start_audio", 0
        last = source
        wanted = again[session.made - len(golden)] if session.made >= len(golden) else golden[session.made]
        made = session.block(block, sound=sound, latent=entry["audio_ptr"])
        differences.append(_block_difference(session.made - 1, made, wanted))
        block += 1
    assert session.made == len(golden) + len(again), "the trace does not cover all golden blocks"
    return result("DiT blocks, 2 steps", differences, limit=_limit(dtype))


def check_inside(directory: Path, dtype: torch.dtype) -> Result:
    """Module inputs and outputs, flows and cache contents of the session with 4 steps, as far as they are stored."""
    facts = load_facts(directory, "dit")["dit_4step"]
    dit = load_dit(directory, dtype)
    session = GoldenSession.open(directory, "dit_4step", dtype, dit=dit)
    watch = _Watch(dit)
    differences: list[Difference] = []
    session.start("in.ref_latents", "in.prompt_embeds")
    differences += watch.compare_prefill(session.tensors)
    differences += _compare_cache(session, "after_prefill", session.denoiser.cache.reference_slots().read)
    for block, pointer in enumerate(facts["audio_ptr"]):
        watch.forget()
        session.block(block, sound="in.audio_input", latent=pointer)
        if block == 0:
            differences += watch.compare_first_forward(session.tensors)
        differences += watch.compare_steps(session.tensors, block)
        slots = session.denoiser.cache.block_slots(block).read
        differences += _compare_cache(session, f"after_block{block}", slots)
        differences += _compare_sink(session, f"after_block{block}")
    # the values inside are stored in float32 only
    return result("DiT inside", differences, limit=FLOAT32_LIMIT)


@dataclass
class _Seen:
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)


class _Watch:
    """Inputs and outputs of the modules whose numbers are stored, call by call."""

    def __init__(self, dit: DiT) -> None:
        self._seen: dict[str, _Seen] = {}
        modules: dict[str, nn.Module] = {}
        for number, block in enumerate(dit.blocks):
            modules[f"block{number}"] = block
        modules |= {
            "block0.self_attn": dit.blocks[0].get_submodule("self_attn"),
            "block0.cross_attn": dit.blocks[0].get_submodule("cross_attn"),
            "block0.ffn": dit.blocks[0].get_submodule("ffn"),
            "injector0.attn": dit.audio_injector.injector[0],
        }
        for name, module in modules.items():
            seen = self._seen[name] = _Seen()
            module.register_forward_hook(_recorder(seen))
        self._watch_head(dit)

    def _watch_head(self, dit: DiT) -> None:
        """Our head takes rows that are normed already, the reference's the residual stream before."""
        head, stream = self._seen.setdefault("head", _Seen()), _Seen()
        for module in (*dit.blocks, dit.audio_injector):
            module.register_forward_hook(_recorder(stream))

        def record(_module: nn.Module, _inputs: tuple[Rows], output: Tensor) -> None:
            head.inputs.append(stream.outputs[-1])
            head.outputs.append(output)

        dit.head.register_forward_hook(record)

    def forget(self) -> None:
        for seen in self._seen.values():
            seen.inputs.clear()
            seen.outputs.clear()

    def compare_prefill(self, tensors: Mapping[str, Tensor]) -> Iterator[Difference]:
        yield from self._compare_modules(with_prefix(tensors, "out.tap.prefill."), "prefill")

    def compare_first_forward(self, tensors: Mapping[str, Tensor]) -> Iterator[Difference]:
        yield from self._compare_modules(with_prefix(tensors, "out.tap.block0_step0."), "block 0, step 0")

    def compare_steps(self, tensors: Mapping[str, Tensor], block: int) -> Iterator[Difference]:
        """The head's output of every forward against the stored flows (before they are put back into a picture)."""
        for step, head in enumerate(self._seen["head"].outputs):
            golden = tensors.get(f"out.block{block}.step{step}.flow")
            if golden is not None:
                yield difference(f"flow of block {block}, step {step}", head, _as_tokens(golden[0]))

    def _compare_modules(self, golden: Mapping[str, Tensor], when: str) -> Iterator[Difference]:
        for name, seen in self._seen.items():
            for side, recorded in (("in", seen.inputs), ("out", seen.outputs)):
                wanted = golden.get(f"{name}.{side}")
                if wanted is not None and recorded:
                    ours = recorded[0].reshape(wanted.shape) if recorded[0].numel() == wanted.numel() else recorded[0]
                    yield difference(f"{name}.{side} of {when}", ours, wanted)


def _recorder(seen: _Seen) -> Any:
    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.inputs.append(_numbers(inputs[0]))
        seen.outputs.append(_numbers(output))

    return record


def _numbers(value: Tensor | Rows | tuple[Tensor, Rows]) -> Tensor:
    """Of what passes between modules: the rows themselves, or the residual stream beside them."""
    if isinstance(value, Rows):
        return value.values
    return value[0] if isinstance(value, tuple) else value


def _as_tokens(latents: Tensor) -> Tensor:
    """[f, c, h, w] to the head's [tokens, (p, q, c)]."""
    f, c, h, w = latents.shape
    return latents.reshape(f, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4 * c)


def _compare_cache(session: GoldenSession, when: str, slots: slice) -> Iterator[Difference]:
    cache = session.denoiser.cache
    for name, golden in with_prefix(session.tensors, f"out.kv.{when}.layer").items():
        layer, _, kind = name.partition(".")
        held = (cache.k_NGHK if kind == "k" else cache.v_NGHK)[int(layer), slots]
        yield difference(f"cache {when}, layer {layer}, {kind}", held[None], golden)


def _compare_sink(session: GoldenSession, when: str) -> Iterator[Difference]:
    cache = session.denoiser.cache
    slots = cache.reference_slots().read
    for name, golden in session.tensors.items():
        layer, _, stored_when = name.removeprefix("out.sink_k.layer").partition(".")
        if name.startswith("out.sink_k.") and stored_when == when:
            yield difference(f"sink {when}, layer {layer}", cache.k_NGHK[int(layer), slots][None], golden)


def _golden_latents(tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype) -> Tensor:
    return tensors[f"{'out64' if dtype is torch.float64 else 'out'}.{name}"]


def _block_difference(block: int, made: Tensor, golden: Tensor) -> Difference:
    return difference(f"block {block}", made.transpose(0, 1)[None], golden)


def _limit(dtype: torch.dtype) -> float:
    return FLOAT64_LIMIT if dtype is torch.float64 else FLOAT32_LIMIT
