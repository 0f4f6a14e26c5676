"""The parts of the network that are compared, in the order of the way of a render.

Knows which function compares what. Each takes a golden directory and the precision to compute in, reads all sizes from
the files there, and returns its worst difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tests.parity import audio_net, bucket, dit, image, padding, scheduler, text, units, vae, wav2vec
from tests.parity.golden import Result

Check = Callable[[Path, torch.dtype], Result]

PARTS: Sequence[Check] = (
    image.check,
    padding.check,
    wav2vec.check,
    bucket.check,
    audio_net.check,
    text.check,
    scheduler.check,
    units.check,
    dit.check_inside,
    dit.check_four_steps,
    dit.check_two_steps,
    vae.check,
)
