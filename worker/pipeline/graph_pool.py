"""Memory for CUDA graphs. Knows PyTorch's pools, nothing of what is captured."""

from __future__ import annotations

import torch


class GraphPool:
    """A pool that several graphs share, of which one runs at a time.

    PyTorch takes a pool back for good with its last graph. A graph of nothing much keeps this one, so that others may
    come and go.
    """

    def __init__(self, device: torch.device) -> None:
        self.handle = torch.cuda.graph_pool_handle()
        self._keeper = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(device),
            torch.cuda.graph(self._keeper, pool=self.handle, capture_error_mode="thread_local"),
        ):
            torch.zeros(1, device=device)
