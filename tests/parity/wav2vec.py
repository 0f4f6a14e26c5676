"""The audio features against their golden: normalisation, states, 30 per second, rows (specification, 9)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.parity.golden import (
    FLOAT32_RELATIVE,
    Result,
    difference,
    load_facts,
    load_tensors,
    result,
    with_prefix,
)
from worker.pipeline.audio_encoder import AudioEncoder
from worker.pipeline.audio_features import interpolate
from worker.pipeline.checkpoint import GivenWeights, Network
from worker.pipeline.config import AudioEncoderConfig
from worker.pipeline.sound import normalised


def check(directory: Path, dtype: torch.dtype) -> Result:
    facts = load_facts(directory, "wav2vec")
    tensors = load_tensors(directory, "wav2vec")
    sizes = facts["config"]
    encoder = AudioEncoder(
        AudioEncoderConfig(
            hidden_size=sizes["hidden_size"],
            num_layers=sizes["num_hidden_layers"],
            num_heads=sizes["num_attention_heads"],
            intermediate_size=sizes["intermediate_size"],
            conv_dim=tuple(sizes["conv_dim"]),
            conv_kernel=tuple(sizes["conv_kernel"]),
            conv_stride=tuple(sizes["conv_stride"]),
            num_conv_pos_embeddings=sizes["num_conv_pos_embeddings"],
            num_conv_pos_embedding_groups=sizes["num_conv_pos_embedding_groups"],
            layer_norm_eps=sizes["layer_norm_eps"],
            vocab_size=sizes["vocab_size"],
        ),
        device=torch.device("cpu"),
        dtype=dtype,
        weights=GivenWeights({Network.AUDIO: with_prefix(tensors, "w.")}),
    )
    differences = []
    for case in facts["cases"]:
        samples = case["samples"]
        wave = tensors[f"in.{samples}.wave"].numpy()
        flat = normalised(wave, mean=float(wave.mean(dtype=np.float64)), variance=float(wave.var(dtype=np.float64)))
        states = encoder.states(flat)
        made = {
            "normalised": torch.from_numpy(flat)[None],
            "hidden_states": states,
            "features_30hz": interpolate(states),
            "audio_input": encoder.segment_rows(wave)[None],
        }
        for name, tensor in made.items():
            golden = tensors.get(f"out.{samples}.{name}")  # large ones are left out for long cases
            if golden is not None:
                differences.append(difference(f"{name} of {samples}", tensor, golden))
    return result("audio features", differences, limit=FLOAT32_RELATIVE)
