"""The arithmetic of the DiT: one product, one row, one attention at a time.

Knows numbers and their precision, nothing of layers or positions. This is the plain torch path: the reference, and what
runs on a CPU. A machine with faster kernels subclasses `Kernels`; the network calls nothing else for its heavy work.

Precision (specification, section 16): the residual stream is kept in the network's dtype; sums inside norms, scale and
shift, and gated additions run in at least float32.

Shapes: S tokens, G keys, D channels, E outputs, H heads, K channels of a head, B groups that attend by themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums for values stored in `dtype`: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


class Kernels:
    """Plain torch. Without state, so that one object serves every layer."""

    def linear(self, x_SD: Tensor, layer: nn.Linear) -> Tensor:
        """[S, D] to [S, E]."""
        return functional.linear(x_SD, layer.weight, layer.bias)

    def feed_forward(self, x_SD: Tensor, up: nn.Linear, down: nn.Linear) -> Tensor:
        """Linear, GELU in its tanh form, linear."""
        return self.linear(functional.gelu(self.linear(x_SD, up), approximate="tanh"), down)

    def norm_modulate(self, x_SD: Tensor, *, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        """Layer norm over the last axis without weights, then `* (1 + scale) + shift`; in the dtype of x."""
        exact = exact_dtype(x_SD.dtype)
        h_SD = functional.layer_norm(x_SD.to(exact), x_SD.shape[-1:], eps=eps)
        return torch.addcmul(shift.to(exact), h_SD, 1 + scale.to(exact)).to(x_SD.dtype)

    def norm_affine(self, x_SD: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Layer norm with weights; in the dtype of x."""
        exact = exact_dtype(x_SD.dtype)
        weight, bias = norm.weight.to(exact), norm.bias.to(exact)
        return functional.layer_norm(x_SD.to(exact), x_SD.shape[-1:], weight, bias, norm.eps).to(x_SD.dtype)

    def rms_norm(self, x_SD: Tensor, weight_D: Tensor, *, eps: float) -> Tensor:
        """`x / sqrt(mean(x^2) + eps) * weight`, the mean over all channels of a token, before any split into heads."""
        x_exact = x_SD.to(exact_dtype(x_SD.dtype))
        h_SD = x_exact * torch.rsqrt(x_exact.square().mean(-1, keepdim=True) + eps)
        return h_SD.to(x_SD.dtype) * weight_D

    def add(self, x_SD: Tensor, y_SD: Tensor) -> Tensor:
        """The residual stream with `y` on it."""
        return x_SD + y_SD

    def add_gated(self, x_SD: Tensor, y_SD: Tensor, gate_D: Tensor) -> Tensor:
        """The residual stream with `y * gate` on it."""
        exact = exact_dtype(x_SD.dtype)
        return torch.addcmul(x_SD.to(exact), y_SD.to(exact), gate_D.to(exact)).to(x_SD.dtype)

    def rotate(self, x_SHK: Tensor, *, cos_SP: Tensor, sin_SP: Tensor) -> Tensor:
        """Turn the interleaved pairs of every head: [S, H, K] by [S, K / 2] angles (specification, section 5)."""
        even, odd = x_SHK.to(cos_SP.dtype).view(*x_SHK.shape[:-1], -1, 2).unbind(-1)
        cos, sin = cos_SP[:, None], sin_SP[:, None]
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
        return turned.flatten(-2).to(x_SHK.dtype)

    def attend(self, q_BSHK: Tensor, k_BGHK: Tensor, v_BGHK: Tensor, *, bias_G: Tensor | None = None) -> Tensor:
        """Softmax attention of every head with scale 1 / sqrt(K): [B, S, H, K].

        `bias_G` is added to the scores of each key. No mask: the order of the keys does not matter.
        """
        q, k, v = (x.transpose(1, 2) for x in (q_BSHK, k_BGHK, v_BGHK))
        mask = None if bias_G is None else bias_G.to(q.dtype).expand(q.shape[-2], -1)
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
