"""The weights of one attention: four products, and the norms of queries and keys. Knows numbers and names only."""

from __future__ import annotations

import torch
from torch import nn

from worker.pipeline.config import DiTConfig


class RMSNorm(nn.Module):
    """The weight of a norm over all channels of a token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))


class Projections(nn.Module):
    """What self-attention and the two cross-attentions have in common."""

    qkv: nn.Linear
    """The first three products as one, in their place, where the kernels want it so."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.eps = config.eps
        self.q = nn.Linear(config.dim, config.dim)
        self.k = nn.Linear(config.dim, config.dim)
        self.v = nn.Linear(config.dim, config.dim)
        self.o = nn.Linear(config.dim, config.dim)
        self.norm_q = RMSNorm(config.dim)
        self.norm_k = RMSNorm(config.dim)
