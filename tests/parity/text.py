"""The text encoder and the cleaning of prompts against their golden (specification, section 10)."""

from __future__ import annotations

from pathlib import Path

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
from worker.pipeline.checkpoint import GivenWeights, Network
from worker.pipeline.config import TextEncoderConfig, Tokenizer
from worker.pipeline.prompt import clean
from worker.pipeline.text_encoder import TextEncoder


def check(directory: Path, dtype: torch.dtype) -> Result:
    facts = load_facts(directory, "t5")
    tensors = load_tensors(directory, "t5")
    sizes = facts["config"]
    if sizes["shared_pos"]:
        raise AssertionError("the golden shares one position bias; the released encoder has one per layer")
    for case in facts["cleaning"]:
        if clean(case["text"]) != case["cleaned"]:
            raise AssertionError(f"{case['text']!r} cleaned to {clean(case['text'])!r}, golden {case['cleaned']!r}")
    encoder = TextEncoder(
        TextEncoderConfig(
            vocab_size=sizes["vocab_size"],
            dim=sizes["dim"],
            dim_attn=sizes["dim_attn"],
            dim_ffn=sizes["dim_ffn"],
            num_heads=sizes["num_heads"],
            num_layers=sizes["encoder_layers"],
            tokenizer=Tokenizer.BYTES,
            text_len=facts["seq_len"],
            num_buckets=sizes["num_buckets"],
            max_distance=sizes["max_dist"],
        ),
        device=torch.device("cpu"),
        dtype=dtype,
        weights=GivenWeights({Network.TEXT: with_prefix(tensors, "w.")}),
    )
    differences = []
    for number, _ in enumerate(facts["cases"]):
        ids, mask = tensors[f"case{number}.ids"][0], tensors[f"case{number}.mask"][0]
        embedding = encoder.encode_ids(ids[mask.bool()].tolist())
        if bool(embedding.rows[embedding.length :].any()):
            raise AssertionError(f"case {number}: rows past the prompt are not zero")
        differences.append(difference(f"case {number}", embedding.rows[None], tensors[f"case{number}.prompt_embeds"]))
    return result("text encoder", differences, limit=FLOAT32_RELATIVE)
