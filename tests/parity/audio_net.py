"""The causal audio encoder against `audio_encoder.*`: as a whole, and window by window as a render feeds it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from tests.parity.dit import AUDIO_LAYERS, dit_config
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
from worker.pipeline.conditioning import audio_windows
from worker.pipeline.config import FRAMES_PER_LATENT, DiTConfig
from worker.pipeline.dit.audio_net import ROWS_BEFORE, CausalAudioEncoder


def check(directory: Path, dtype: torch.dtype) -> Result:
    facts = load_facts(directory, "audio_encoder")
    tensors = load_tensors(directory, "audio_encoder")
    sizes = facts["config"]
    config = dit_config(
        load_facts(directory, "dit")["config"],
        dim=sizes["out_dim"],
        num_heads=1,
        audio_dim=sizes["dim"],
        audio_layers=sizes.get("num_layers", AUDIO_LAYERS),
        num_audio_token=sizes["num_token"],
    )
    network = CausalAudioEncoder(config)
    network.load_state_dict(with_prefix(tensors, "w."))
    network.to(dtype)
    lead_rows, dropped = sizes["motion_frames"]
    differences: list[Difference] = []
    for case in facts["cases"]:
        rows = tensors[f"in.{case}.audio_input"][0].to(dtype)
        golden = with_prefix(tensors, f"out.{case}.")
        differences += _whole(case, network, rows, golden, lead_rows=lead_rows)
        differences += _by_window(case, network, config, rows, golden)
        differences += _dropped(case, golden, dropped)
    return result("causal audio encoder", differences, limit=FLOAT32_RELATIVE)


def _whole(
    case: str, network: CausalAudioEncoder, rows: Tensor, golden: dict[str, Tensor], *, lead_rows: int
) -> Iterator[Difference]:
    """All outputs, those of the copies in front included, as the reference makes them."""
    latents = golden["global_all"].shape[1]
    before = lead_rows + FRAMES_PER_LATENT * 2  # what the replicating convolutions of the reference add
    in_front = rows[..., :1].expand(-1, -1, before)
    window = torch.cat((in_front, rows), dim=-1)[..., : FRAMES_PER_LATENT * latents + ROWS_BEFORE]
    tokens = network(window)
    yield difference(f"{case} rows, global", tokens.whole[None, :, None], golden["global_all"])
    yield difference(f"{case} rows, local", tokens.local[None], golden["local_all"])


def _by_window(
    case: str, network: CausalAudioEncoder, config: DiTConfig, rows: Tensor, golden: dict[str, Tensor]
) -> Iterator[Difference]:
    """The same block by block, from rows that come one at a time."""
    blocks = golden["global"].shape[1] // config.num_frame_per_block
    windows = audio_windows(rows.split(1, dim=-1), config, lead=0)
    tokens = [network(next(windows)) for _ in range(blocks)]
    whole = torch.cat([t.whole for t in tokens])
    local = torch.cat([t.local for t in tokens])
    yield difference(f"{case} rows by window, global", whole[None, :, None], golden["global"])
    yield difference(f"{case} rows by window, local", local[None], golden["local"])


def _dropped(case: str, golden: dict[str, Tensor], dropped: int) -> Iterator[Difference]:
    """That the golden file itself drops what we never compute."""
    yield difference(f"{case} rows, kept", golden["global_all"][:, dropped:], golden["global"])
