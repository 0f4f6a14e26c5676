"""Which arithmetic a device gets. Knows devices and what an operator asked for."""

from __future__ import annotations

import torch

from worker.pipeline.compute import Compute
from worker.pipeline.dit.kernels import Kernels
from worker.pipeline.precision import MemoryUse, Precision

FAST_CAPABILITY = (8, 0)
"""The first CUDA compute capability with products in bfloat16."""


def choose_kernels(compute: Compute) -> Kernels:
    """Fast ones where there are any for the device and bfloat16, else plain torch. Raises `UnusablePrecision`."""
    is_nvidia = compute.device.type == "cuda" and torch.version.hip is None
    if not is_nvidia or compute.dtype is not torch.bfloat16:
        return Kernels()
    if torch.cuda.get_device_capability(compute.device) < FAST_CAPABILITY:
        return Kernels()
    from worker.pipeline.dit.fast_kernels import COLD, HOT, FastKernels  # Triton, which a processor has no use for
    from worker.pipeline.dit.row_kernels import FP8
    from worker.pipeline.dit.self_attend import choose_self_attend

    in_8_bits = [] if compute.precision is Precision.FULL else [HOT]
    if compute.memory is MemoryUse.LOW and in_8_bits:
        in_8_bits.append(COLD)
    return FastKernels(
        choose_self_attend(compute.device, compute.precision),
        row_dtype=FP8 if in_8_bits else compute.dtype,
        cache_dtype=FP8 if compute.precision is Precision.FP8_ATTENTION else compute.dtype,
        in_8_bits=in_8_bits,
    )
