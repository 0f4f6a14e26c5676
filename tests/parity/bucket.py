"""Interpolation to 30 per second and the choice of rows against their golden (specification, sections 9.4 and 9.5)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.parity.exact import equal
from tests.parity.golden import (
    FLOAT32_RELATIVE,
    Result,
    difference,
    load_facts,
    load_tensors,
    result,
)
from worker.pipeline.audio_features import bucket, interpolate, nearest_between


def check(directory: Path, dtype: torch.dtype) -> Result:
    facts = load_facts(directory, "bucket")
    tensors = {name: tensor.to(dtype) for name, tensor in load_tensors(directory, "bucket").items()}
    differences = []
    for case in facts["cases"]:
        name = f"case{case['case']}"
        rows = bucket(tensors[f"{name}.in"], fps=case["fps"], batch_frames=case["batch_frames"], context=case["m"])
        differences.append(difference(name, rows.flatten(1), tensors[f"{name}.out"].flatten(1)))
        differences.append(equal(f"{name} layout", list(rows.shape), list(tensors[f"{name}.out"].shape)))
    for case in facts["interpolation"]:
        name = f"interp.{case['n_50hz']}"
        differences.append(difference(name, interpolate(tensors[f"{name}.in"]), tensors[f"{name}.out"]))
    if "single_layer.in" in tensors:
        rows_RD = bucket(tensors["single_layer.in"], batch_frames=len(tensors["single_layer.out"]))[:, 0]
        differences.append(difference("single layer", rows_RD, tensors["single_layer.out"]))
    for count, indices in facts["sample_indices_16fps"].items():
        differences.append(equal(f"indices of {count}", nearest_between(np.arange(int(count))).tolist(), indices))
    return result("audio bucket", differences, limit=FLOAT32_RELATIVE)
