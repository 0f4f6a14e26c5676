"""Latents on their way from the device to the host. Knows one copy; who sends them where is in `exchange.py`."""

from __future__ import annotations

import torch
from torch import Tensor


class LatentsOnTheWay:
    """A copy that was asked for, and does not hold up what is asked of the device after it."""

    def __init__(self, latents: Tensor) -> None:
        self._there: torch.cuda.Event | None = None
        if not latents.is_cuda:
            self._copy = latents
            return
        self._copy = torch.empty(latents.shape, dtype=latents.dtype, pin_memory=True)
        self._copy.copy_(latents, non_blocking=True)
        self._there = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call,unused-ignore]
        self._there.record()

    def wait(self) -> Tensor:
        """The latents on the host. A device that hangs is ended with its rank, by the group."""
        if self._there is not None:
            self._there.synchronize()
        return self._copy
