"""Writes the DiT part of a golden directory with the plain network, for sizes that no stored golden has.

Knows the layout of `dit.json`, `dit_weights`, `dit_4step` and `dit_2step`, and how the two sessions are driven. The
numbers come from `plain_network.py`, which shares no code with the pipeline.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.unit.pipeline.plain_network import PlainSession
from worker.pipeline.checkpoint import Network, RandomWeights
from worker.pipeline.config import DiTConfig
from worker.pipeline.dit.dit import DiT

TIMESTEPS = {4: [1000.0, 900.0, 750.0, 500.0], 2: [1000.0, 750.0]}


@dataclass(frozen=True)
class Sizes:
    config: DiTConfig
    four_steps: tuple[int, int]
    """Latent cells of the session with 4 steps."""
    two_steps: tuple[int, int]
    blocks: int
    """Of the session with 4 steps; the sink turns from the eleventh on."""
    segments: tuple[int, ...]
    """Latent frames of each speech in the session with 2 steps."""
    clamped: int
    """Blocks that follow each speech and hear its end once more."""


def write_golden(directory: Path, sizes: Sizes, *, seed: int) -> None:
    """Everything is drawn in float32 and computed in float64."""
    drawn = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        dit = DiT(sizes.config)
    RandomWeights(seed).fill(dit, Network.DIT, device=torch.device("cpu"), dtype=torch.float32)
    weights = {name: tensor.detach() for name, tensor in dit.state_dict().items()}
    named = {f"model.{name}": tensor.contiguous() for name, tensor in weights.items()}
    save_file(named, directory / "dit_weights.safetensors")
    exact = {name: tensor.double() for name, tensor in weights.items()}
    facts: dict[str, Any] = {
        "config": {
            name: getattr(sizes.config, name)
            for name in (
                "dim", "ffn_dim", "num_heads", "num_layers", "text_dim", "text_len", "audio_dim", "freq_dim", "in_dim",
                "out_dim", "num_audio_token", "eps", "audio_inject_layers",
            )
        }
    }  # fmt: skip
    facts["dit_4step"] = _four_steps(directory, sizes, exact, drawn)
    facts["dit_2step"] = _two_steps(directory, sizes, exact, drawn)
    (directory / "dit.json").write_text(json.dumps(facts))


def _four_steps(directory: Path, sizes: Sizes, weights: dict[str, Tensor], drawn: torch.Generator) -> dict[str, Any]:
    config, blocks = sizes.config, sizes.blocks
    inputs = {
        "in.ref_latents": _draw(drawn, 1, config.in_dim, 1, *sizes.four_steps),
        "in.prompt_embeds": _prompt(drawn, config, rows=config.text_len // 3),
        "in.audio_input": _draw(drawn, 1, config.audio_layers, config.audio_dim, 8 * blocks),
        "in.noise_init": _draw(drawn, blocks, 1, 2, config.in_dim, *sizes.four_steps),
        "in.noise_re": _draw(drawn, blocks, 3, 2, config.in_dim, *sizes.four_steps),
    }
    session = _session(sizes.four_steps, config, weights, inputs["in.prompt_embeds"], inputs["in.audio_input"])
    session.prefill(inputs["in.ref_latents"][0].double())
    pointers = [2 * block for block in range(blocks)]
    latents = [_block(session, inputs, block, made=block, pointer=pointers[block], steps=4) for block in range(blocks)]
    save_file(inputs | _outputs("latents", latents), directory / "dit_4step.safetensors")
    return {"steps": 4, "denoising_step_list": TIMESTEPS[4], "audio_ptr": pointers, "blocks": blocks}


def _two_steps(directory: Path, sizes: Sizes, weights: dict[str, Tensor], drawn: torch.Generator) -> dict[str, Any]:
    """Silence, then one speech after the other under prompts of their own, then a second start with another picture."""
    config = sizes.config
    trace: list[dict[str, Any]] = [{"source": "start", "audio_ptr": 0}]
    for number, frames in enumerate(sizes.segments):
        pointers = [*range(0, frames, 2), *[frames - 2] * sizes.clamped]
        trace += [{"source": number, "audio_ptr": pointer} for pointer in pointers]
    first = len(trace)
    trace += [{"source": "restart", "audio_ptr": 0}] * 2
    names = ["start", *map(str, range(len(sizes.segments)))]
    inputs = {
        "in.ref_latents": _draw(drawn, 1, config.in_dim, 1, *sizes.two_steps),
        "in.ref_latents_restart": _draw(drawn, 1, config.in_dim, 1, *sizes.two_steps),
        "in.silence_start_audio": _draw(drawn, 1, config.audio_layers, config.audio_dim, 8),
        "in.noise_init": _draw(drawn, len(trace), 1, 2, config.in_dim, *sizes.two_steps),
        "in.noise_re": _draw(drawn, len(trace), 1, 2, config.in_dim, *sizes.two_steps),
        **{f"in.prompt_embeds.{name}": _prompt(drawn, config, rows=3 + n) for n, name in enumerate(names)},
        **{
            f"in.audio_input.{n}": _draw(drawn, 1, config.audio_layers, config.audio_dim, 4 * frames)
            for n, frames in enumerate(sizes.segments)
        },
    }
    latents: list[Tensor] = []
    session, block = None, 0
    for made, entry in enumerate(trace):
        source = entry["source"]
        if isinstance(source, int):
            assert session is not None
            prompt, sound = inputs[f"in.prompt_embeds.{source}"], inputs[f"in.audio_input.{source}"]
            session = replace(session, prompt=prompt[0].double(), sound=sound[0].double())
        elif not made or trace[made - 1]["source"] != source:
            prompt, sound = inputs["in.prompt_embeds.start"], inputs["in.silence_start_audio"]
            session, block = _session(sizes.two_steps, config, weights, prompt, sound), 0
            session.prefill(inputs["in.ref_latents_restart" if made else "in.ref_latents"][0].double())
        assert session is not None
        latents.append(_block(session, inputs, block, made=made, pointer=entry["audio_ptr"], steps=2))
        block += 1
    outputs = _outputs("latents", latents[:first]) | _outputs("latents_restart", latents[first:])
    save_file(inputs | outputs, directory / "dit_2step.safetensors")
    return {"steps": 2, "denoising_step_list": TIMESTEPS[2], "trace": trace}


def _session(
    size: tuple[int, int], config: DiTConfig, weights: dict[str, Tensor], prompt: Tensor, sound: Tensor
) -> PlainSession:
    return PlainSession(config, weights, prompt[0].double(), sound[0].double(), size)


def _block(
    session: PlainSession, inputs: dict[str, Tensor], block: int, *, made: int, pointer: int, steps: int
) -> Tensor:
    noises = [inputs["in.noise_init"][made, 0], *inputs["in.noise_re"][made]]
    return session.block(block, [n.transpose(0, 1).double() for n in noises], TIMESTEPS[steps], pointer=pointer)


def _outputs(name: str, latents: list[Tensor]) -> dict[str, Tensor]:
    whole = torch.stack([block.transpose(0, 1)[None] for block in latents])
    return {f"out64.{name}": whole.contiguous(), f"out.{name}": whole.float().contiguous()}


def _prompt(drawn: torch.Generator, config: DiTConfig, *, rows: int) -> Tensor:
    prompt = _draw(drawn, 1, config.text_len, config.text_dim)
    prompt[:, rows:] = 0
    return prompt


def _draw(drawn: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=drawn)
