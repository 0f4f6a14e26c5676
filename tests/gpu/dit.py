"""The DiT's fast path on a GPU against the plain one: `python -m tests.gpu.dit --help`. Exits with 1 when one is off.

A network of the released widths with few layers, drawn weights, 480 x 640. Errors are relative L2 distances of the
latents of a block from those of the plain path in float32; the plain path in bfloat16 says what rounding alone costs.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from worker.pipeline.checkpoint import Network, RandomWeights
from worker.pipeline.compute import Compute
from worker.pipeline.config import DiTConfig, preset
from worker.pipeline.denoiser import Denoiser, read_times, whole_picture
from worker.pipeline.dit.audio_net import rows_for
from worker.pipeline.dit.dit import DiT
from worker.pipeline.dit.kernel_choice import choose_kernels
from worker.pipeline.dit.kernels import Kernels, exact_dtype
from worker.pipeline.dit.recording import DirectPlayer, GraphPlayer
from worker.pipeline.errors import UnusablePrecision
from worker.pipeline.graph_pool import GraphPool
from worker.pipeline.noise import block_noise
from worker.pipeline.parallel import SequenceParallel
from worker.pipeline.precision import MemoryUse, Precision
from worker.pipeline.schedule import denoising_steps

LATENTS = (60, 80)
BLOCKS = 13
"""The sink turns from the eleventh on; every recording is played several times."""


@dataclass(frozen=True)
class Case:
    name: str
    compute: Compute
    limit: float
    """Of the error in units of the plain path's in bfloat16."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--prompt-rows", type=int, default=12, help="tokens of the prompt; above 64 nothing is folded")
    parser.add_argument("--profile", choices=Precision, type=Precision, help="instead: where one block's time goes")
    arguments = parser.parse_args()
    config = replace(preset("14b").dit, num_layers=arguments.layers, audio_inject_layers=(0, arguments.layers - 1))
    cuda = torch.device("cuda")
    if arguments.profile is not None:
        kernels = choose_kernels(Compute.on(cuda, precision=arguments.profile))
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            blocks(config, kernels, cuda, torch.bfloat16, prompt_rows=arguments.prompt_rows, direct=True)
        print(profile.key_averages().table(sort_by="cuda_time_total", row_limit=32, max_name_column_width=60))
        return 0
    wanted = blocks(config, Kernels(), cuda, torch.float32, prompt_rows=arguments.prompt_rows)
    unit = errors(blocks(config, Kernels(), cuda, torch.bfloat16, prompt_rows=arguments.prompt_rows), wanted)
    print(f"plain bfloat16: error {unit[0]:.4f} in the first block, {unit[-1]:.4f} in the last")
    wrong = 0
    for case in _cases(cuda):
        try:
            kernels = choose_kernels(case.compute)
        except UnusablePrecision as error:
            print(f"{case.name}: not here: {error}")
            continue
        made = blocks(config, kernels, cuda, torch.bfloat16, prompt_rows=arguments.prompt_rows)
        off = errors(made, wanted)
        played = blocks(config, kernels, cuda, torch.bfloat16, prompt_rows=arguments.prompt_rows, direct=True)
        same = all(torch.equal(a, b) for a, b in zip(made, played, strict=True))
        is_near = all(mine < case.limit * plain for mine, plain in zip(off, unit, strict=True))
        wrong += not (is_near and same)
        print(
            f"{case.name}: error {off[0]:.4f} in the first block, {off[-1]:.4f} in the last, at most "
            f"{max(m / p for m, p in zip(off, unit, strict=True)):.2f} of plain bfloat16's"
            f"{'' if is_near else f': WRONG, limit {case.limit}'}; "
            f"recordings {'repeat' if same else 'DIFFER FROM'} what they record"
        )
    return min(wrong, 1)


def blocks(
    config: DiTConfig,
    kernels: Kernels,
    device: torch.device,
    dtype: torch.dtype,
    *,
    prompt_rows: int,
    direct: bool = False,
) -> list[Tensor]:
    """Latents in float32 on the CPU. The same weights (to rounding), noise, sound and prompt in every call."""
    with torch.device("meta"):
        dit = DiT(config, kernels)
    RandomWeights(4).fill(dit, Network.DIT, device=device, dtype=dtype, place=kernels.place)
    kernels.pack(dit)
    dit.casual_audio_encoder.to(exact_dtype(dtype))
    strips, steps = whole_picture(*LATENTS), denoising_steps(2)
    denoiser = Denoiser(
        dit,
        times=read_times(dit, steps),
        strips=strips,
        strip=strips[0],
        sequence=SequenceParallel(size=1, group=None),
        player=DirectPlayer() if direct else GraphPlayer(GraphPool(device)),
    )
    drawn = torch.Generator().manual_seed(1)
    reference = torch.randn(config.in_dim, 1, *LATENTS, generator=drawn)
    prompt = torch.randn(config.text_len, config.text_dim, generator=drawn)
    prompt[prompt_rows:] = 0
    denoiser.start(reference.to(device), prompt=prompt.to(device), prompt_rows=prompt_rows)
    made = []
    for block in range(BLOCKS):
        window = torch.randn(config.audio_layers, config.audio_dim, rows_for(2), generator=drawn)
        noise = lambda b, step: block_noise(2, block=b, step=step, shape=(config.in_dim, 2, *LATENTS))  # noqa: E731
        made.append(denoiser.denoise(block, window=window.to(device), noise=noise, steps=steps).float().cpu())
    return made


def errors(made: list[Tensor], wanted: list[Tensor]) -> list[float]:
    assert all(block.isfinite().all() for block in made)
    return [float((a - b).norm() / b.norm()) for a, b in zip(made, wanted, strict=True)]


def _cases(device: torch.device) -> list[Case]:
    return [
        Case("bf16", Compute.on(device), limit=1.15),
        Case("fp8", Compute.on(device, precision=Precision.FP8), limit=8.0),
        Case("fp8, low memory", Compute.on(device, precision=Precision.FP8, memory=MemoryUse.LOW), limit=8.0),
        Case("fp8-attention", Compute.on(device, precision=Precision.FP8_ATTENTION), limit=8.0),
    ]


if __name__ == "__main__":
    sys.exit(main())
