"""Attention of a block's tokens to the cached keys, by the fastest kernel that the device has.

Knows which kernels there are and what each can take. Knows nothing of layers, of slots, or of who quantised what: the
values of 8-bit tensors are taken as they stand.

Shapes: S tokens that ask, G tokens in the cache, h heads of this rank, K channels of a head.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from worker.pipeline.errors import UnusablePrecision
from worker.pipeline.precision import Precision

FLASH_ATTENTION_3 = "flash_attn_interface"
"""The module that the released package of FlashAttention 3 installs."""
HOPPER = 9
"""The major compute capability whose kernels FlashAttention 3 is written for."""
FASTEST_FIRST = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
"""Torch's own kernels on a GPU, by their speed at the sizes of the 14b preset."""


class SelfAttend(Protocol):
    """Softmax attention of every head with scale 1 / sqrt(K), no mask.

    Can be captured in a CUDA graph once a call with the same shapes has gone before; never waits for the device.
    """

    @property
    def name(self) -> str:
        """For reports."""

    def __call__(self, q_ShK: Tensor, k_GhK: Tensor, v_GhK: Tensor) -> Tensor:
        """[S, h, K], contiguous. Rows of K channels are contiguous in each input; keys may be a slice of a cache."""


def choose_self_attend(device: torch.device, precision: Precision) -> SelfAttend:
    """The fastest that is installed for this device and takes what `precision` caches.

    Raises `UnusablePrecision` where 8-bit attention is asked for and nothing here can do it, or where what is installed
    for it is broken.
    """
    flash_attention = _flash_attention_3(device)
    if flash_attention is not None:
        return FlashAttention3(flash_attention)
    if precision is Precision.FP8_ATTENTION:
        raise UnusablePrecision(
            f"precision {precision} needs a Hopper GPU (H100, H200) and FlashAttention 3: build `hopper/` of "
            f"https://github.com/Dao-AILab/flash-attention, which installs the module {FLASH_ATTENTION_3}; "
            f"or use {Precision.FP8}"
        )
    return OrderedTorchAttention() if device.type == "cuda" else TorchAttention()


class FlashAttention3:
    """bfloat16, or float8_e4m3fn with bfloat16 out."""

    name = "FlashAttention 3"

    def __init__(self, flash_attn_func: Callable[..., Any]) -> None:
        self._flash_attn_func = flash_attn_func

    def __call__(self, q_ShK: Tensor, k_GhK: Tensor, v_GhK: Tensor) -> Tensor:
        scale = q_ShK.shape[-1] ** -0.5
        out = self._flash_attn_func(q_ShK[None], k_GhK[None], v_GhK[None], softmax_scale=scale, causal=False)
        # its earlier versions return the sums of their softmax as well
        o_1ShK: Tensor = out[0] if isinstance(out, tuple) else out
        return o_1ShK[0]


class TorchAttention:
    """Whatever torch picks: any device, any dtype of 16 bits or more."""

    name = "torch"

    def __call__(self, q_ShK: Tensor, k_GhK: Tensor, v_GhK: Tensor) -> Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q_ShK, k_GhK, v_GhK))
        return functional.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).contiguous()


class OrderedTorchAttention(TorchAttention):
    """Torch's kernels in an order of ours: torch's own has put cuDNN first in some versions and last in others."""

    name = "torch, cuDNN first"

    def __call__(self, q_ShK: Tensor, k_GhK: Tensor, v_GhK: Tensor) -> Tensor:
        with sdpa_kernel(list(FASTEST_FIRST), set_priority=True):
            return super().__call__(q_ShK, k_GhK, v_GhK)


def _flash_attention_3(device: torch.device) -> Callable[..., Any] | None:
    """Its function, or None where it is not installed or not for this device."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] != HOPPER:
        return None
    try:
        found: Callable[..., Any] = importlib.import_module(FLASH_ATTENTION_3).flash_attn_func
    except ModuleNotFoundError as error:
        if error.name == FLASH_ATTENTION_3:
            return None
        raise _broken(error) from error
    except (ImportError, OSError, AttributeError) as error:
        raise _broken(error) from error
    return found


def _broken(error: Exception) -> UnusablePrecision:
    return UnusablePrecision(
        f"FlashAttention 3 ({FLASH_ATTENTION_3}) is installed and cannot be loaded: {error}; "
        "build it for this torch, or remove it"
    )
