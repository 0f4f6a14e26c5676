"""Pictures in and frames out against their golden (specification, section 12). Exact to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tests.parity.exact import equal
from tests.parity.golden import Difference, Result, difference, load_facts, load_tensors, result
from worker.media.picture import Bars, ReferenceSize, nearest_multiple, prepare, reference_frame
from worker.pipeline.vae import to_uint8


def check(directory: Path, dtype: torch.dtype) -> Result:
    facts = load_facts(directory, "image")
    tensors = load_tensors(directory, "image")
    differences = [
        *_sizes(facts["sizes"], area=facts["default_max_image_area"]),
        *_pictures(facts["pixels"], tensors),
        _frames_out(tensors, dtype),
    ]
    for case in facts["cvlization_sizes"]:
        snapped = [nearest_multiple(case["height"]), nearest_multiple(case["width"])]
        differences.append(equal(f"multiples of 64 by {case['height']} x {case['width']}", snapped, case["out"]))
    return result("image", differences, limit=0.0)


def _sizes(cases: list[dict[str, object]], *, area: int) -> list[Difference]:
    compared = []
    for case in cases:
        width, height = case["width"], case["height"]
        assert isinstance(width, int)
        assert isinstance(height, int)
        frame = reference_frame(width, height, area=area)
        made = ([frame.resized_height, frame.resized_width], [frame.height, frame.width])
        compared.append(equal(f"size of {width} x {height}", made, (case["resize_hw"], case["crop_hw"])))
    return compared


def _pictures(cases: list[dict[str, object]], tensors: dict[str, Tensor]) -> list[Difference]:
    """RealVideo's rule, and CVlization's plain resize to fixed sides."""
    compared = []
    for case in cases:
        name = f"pix{case['case']}"
        area, other = case["max_image_area"], case["cvlization"]
        assert isinstance(area, int)
        assert isinstance(other, dict)
        picture = Image.fromarray(tensors[f"{name}.in"].numpy())
        portrait = prepare(picture, ReferenceSize(area=area, bars=Bars.BLACK))
        compared.append(difference(name, _planes(portrait.pixels), tensors[f"{name}.realvideo_u8"]))
        compared.append(equal(f"cut of {name}", portrait.cut, case["sp_dim"]))
        sides = (other["target_width"], other["target_height"])
        plain = np.asarray(picture.resize(sides, Image.Resampling.BICUBIC))
        compared.append(difference(f"{name} resized", _planes(plain), tensors[f"{name}.cvlization_u8"]))
    return compared


def _frames_out(tensors: dict[str, Tensor], dtype: torch.dtype) -> Difference:
    """The golden has frames last-axis RGB in -1 .. 1 in, and BGR out, one batch after the other."""
    values = tensors["remap.in"].to(dtype)
    made = to_uint8(values.permute(3, 0, 1, 2))
    return difference("frames out", made.flip(-1), tensors["remap.out_bgr"])


def _planes(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
