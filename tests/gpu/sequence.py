"""Two GPUs on one sequence against one GPU: `python -m tests.gpu.sequence --help`. Exits with 1 when they differ.

First a network of the released widths with few layers: the latents of two ranks, put together, against those of one.
Then the whole 14b network with drawn weights: milliseconds per block, and the same with each tensor exchanged by a
collective call of its own, which is what the grouped exchange is there to beat.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing

from worker.pipeline.checkpoint import Network, RandomWeights
from worker.pipeline.compute import Compute
from worker.pipeline.config import DiTConfig, preset
from worker.pipeline.denoiser import Denoiser, read_times
from worker.pipeline.dit.audio_net import rows_for
from worker.pipeline.dit.dit import DiT
from worker.pipeline.dit.kernel_choice import choose_kernels
from worker.pipeline.dit.kernels import exact_dtype
from worker.pipeline.dit.recording import GraphPlayer
from worker.pipeline.noise import block_noise
from worker.pipeline.parallel import SequenceParallel, assemble, cut
from worker.pipeline.precision import Precision
from worker.pipeline.schedule import denoising_steps

HEIGHT, WIDTH = 640, 480
RANKS = 2
BLOCKS_COMPARED = 12
BLOCKS_WARM, BLOCKS_TIMED = 12, 16
LIMIT = 0.02
"""Relative L2 of the latents; the products are cut in other places, so bfloat16 rounds them differently."""


@dataclass(frozen=True)
class Work:
    precisions: tuple[Precision, ...]
    layers: int
    directory: str


class EachByItself(SequenceParallel):
    """Every tensor by its own all-to-all."""

    def exchange(self, outgoing_PShK: Sequence[Tensor], gathered_GhK: Sequence[Tensor]) -> None:
        for sent, received in zip(outgoing_PShK, gathered_GhK, strict=True):
            bytes_out, bytes_in = sent.contiguous().view(torch.uint8), received.view(torch.uint8)
            dist.all_to_all_single(bytes_in.flatten(1), bytes_out.flatten(0, 1).flatten(1), group=self._group)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--precision", nargs="*", type=Precision, default=[Precision.FULL, Precision.FP8])
    parser.add_argument("--layers", type=int, default=4, help="of the network that is compared")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        work = Work(tuple(arguments.precision), arguments.layers, directory)
        multiprocessing.spawn(_rank, args=(work,), nprocs=RANKS)
        return 1 if (Path(directory) / "wrong").exists() else 0


def _rank(rank: int, work: Work) -> None:
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    store = (Path(work.directory) / "store").as_uri()
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
    group = dist.new_group(list(range(RANKS)), backend="nccl", timeout=timedelta(seconds=60))
    assert isinstance(group, dist.ProcessGroup)
    for precision in work.precisions:
        _compare(rank, group, Compute.on(device, precision=precision), work)
    for precision in work.precisions:
        for kind in (SequenceParallel, EachByItself):
            _time(rank, kind(size=RANKS, group=group), Compute.on(device, precision=precision))
    dist.destroy_process_group()


def _compare(rank: int, group: dist.ProcessGroup, compute: Compute, work: Work) -> None:
    config = replace(preset("14b").dit, num_layers=work.layers, audio_inject_layers=(0, work.layers - 1))
    dit = _network(config, compute)
    mine = torch.stack(_Stream(dit, SequenceParallel(size=RANKS, group=group), rank, compute).make(BLOCKS_COMPARED))
    parts: list[Tensor] = [torch.empty_like(mine) for _ in range(RANKS)]
    dist.all_gather(parts, mine, group=group)
    if rank == 0:
        together = assemble(cut(config, height=HEIGHT, width=WIDTH, parts=RANKS), parts)
        alone = torch.stack(_Stream(dit, SequenceParallel(size=1, group=None), 0, compute).make(BLOCKS_COMPARED))
        off = [float((a.float() - b.float()).norm() / b.float().norm()) for a, b in zip(together, alone, strict=True)]
        verdict = "" if max(off) < LIMIT else f": WRONG, limit {LIMIT}"
        if verdict:
            (Path(work.directory) / "wrong").touch()
        print(
            f"{compute.precision}: two ranks are off one by {off[0]:.4f} first, {max(off):.4f} most{verdict}",
            flush=True,
        )
    dist.barrier()


def _time(rank: int, sequence: SequenceParallel, compute: Compute) -> None:
    stream = _Stream(_network(preset("14b").dit, compute), sequence, rank, compute)
    stream.make(BLOCKS_WARM)
    gaps = []
    for _ in range(BLOCKS_TIMED):
        began = time.monotonic()
        stream.make(1)
        torch.cuda.synchronize()
        gaps.append(1000 * (time.monotonic() - began))
    if rank == 0:
        how = type(sequence).__name__
        print(
            f"{compute.precision}, {how}: {statistics.median(gaps):.1f} ms per 2-step block, at most {max(gaps):.1f}",
            flush=True,
        )
    dist.barrier()


def _network(config: DiTConfig, compute: Compute) -> DiT:
    kernels = choose_kernels(compute)
    with torch.device("meta"):
        dit = DiT(config, kernels)
    RandomWeights(4).fill(dit, Network.DIT, device=compute.device, dtype=compute.dtype, place=kernels.place)
    kernels.pack(dit)
    dit.casual_audio_encoder.to(exact_dtype(compute.dtype))
    return dit


class _Stream:
    """Blocks of one drawn session."""

    def __init__(self, dit: DiT, sequence: SequenceParallel, rank: int, compute: Compute) -> None:
        assert compute.graph_pool is not None, "there is one on a GPU"
        self._config = dit.config
        self._steps = denoising_steps(2)
        strips = cut(dit.config, height=HEIGHT, width=WIDTH, parts=sequence.size)
        self._strip = strips[rank]
        self._denoiser = Denoiser(
            dit,
            times=read_times(dit, self._steps),
            strips=strips,
            strip=self._strip,
            sequence=sequence,
            player=GraphPlayer(compute.graph_pool),
        )
        drawn = torch.Generator().manual_seed(1)
        reference = torch.randn(self._config.in_dim, 1, HEIGHT // 8, WIDTH // 8, generator=drawn)
        prompt = torch.randn(self._config.text_len, self._config.text_dim, generator=drawn)
        self._window = torch.randn(self._config.audio_layers, self._config.audio_dim, rows_for(2), generator=drawn).to(
            compute.device
        )
        prompt[12:] = 0
        self._denoiser.start(self._strip.of(reference), prompt=prompt.to(compute.device), prompt_rows=12)
        self._made = 0

    def make(self, blocks: int) -> list[Tensor]:
        made = []
        for _ in range(blocks):
            made.append(self._denoiser.denoise(self._made, window=self._window, noise=self._noise, steps=self._steps))
            self._made += 1
        return made

    def _noise(self, block: int, step: int) -> Tensor:
        shape = (self._config.in_dim, 2, HEIGHT // 8, WIDTH // 8)
        return self._strip.of(block_noise(2, block=block % 2, step=step, shape=shape))


if __name__ == "__main__":
    sys.exit(main())
