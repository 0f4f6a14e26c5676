"""A render on a GPU that goes on in the middle, beside the one that never stopped: `python -m tests.gpu.going_on`.

Renders a video, and then its rest from the latents of the blocks before, for some blocks. The frames must be the same.
Exits with 1 when they are not.
"""

import argparse
import sys
import time
from contextlib import closing
from dataclasses import replace
from itertools import islice

import numpy as np
import torch

from worker.bench.stand_ins import PROMPT, weights_from, with_byte_tokenizer
from worker.pipeline.compute import Compute
from worker.pipeline.config import AUDIO_SAMPLE_RATE, VIDEO_FPS, preset
from worker.pipeline.parallel import RankLayout
from worker.pipeline.pipeline import Pipeline, RenderedBlock
from worker.pipeline.reach import blocks_needed
from worker.pipeline.resumption import Resumption
from worker.pipeline.settings import RenderInputs, RenderSettings

MOST_DIFFERENCE = 1
"""Levels of a pixel, should a kernel be chosen by its time."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--blocks", type=int, default=50)
    parser.add_argument("--borders", type=int, nargs="+", default=[1, 2, 11, 20, 40, 49])
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    arguments = parser.parse_args()
    config = with_byte_tokenizer(preset(arguments.preset))
    pipeline = Pipeline.create(
        config,
        layout=RankLayout.alone(),
        compute=Compute.on(torch.device(arguments.device)),
        weights=weights_from(None),
    )
    settings = RenderSettings(
        height=arguments.height,
        width=arguments.width,
        frames=8 * arguments.blocks - 3,
        seed=0,
        denoising_steps=2,
        prompt=PROMPT,
    )
    _draw(pipeline, settings, None)  # compiles and tunes
    whole = _draw(pipeline, settings, None)
    worst = 0
    for border in arguments.borders:
        first_kept = max(0, border - blocks_needed(config))
        latents = torch.stack([block.latents for block in whole[first_kept:border]])
        began = time.monotonic()
        rest = _draw(pipeline, settings, Resumption(block=border, latents=latents), blocks=3)
        took_s = time.monotonic() - began
        wanted = whole[border : border + len(rest)]
        frames, latents_off = 0, 0.0
        for made, there in zip(rest, wanted, strict=True):
            frames = max(frames, int(np.abs(made.frames.astype(int) - there.frames).max()))
            latents_off = max(latents_off, float((made.latents.float() - there.latents.float()).abs().max()))
        print(
            f"from block {border}: {len(rest)} blocks in {took_s:.2f} s, frames at most {frames} levels off, latents "
            f"at most {latents_off:.2e}",
            flush=True,
        )
        worst = max(worst, frames)
    is_good = worst <= MOST_DIFFERENCE
    print(f"GOING ON {arguments.preset}: frames at most {worst} levels off: {'good' if is_good else 'NOT GOOD'}")
    return 0 if is_good else 1


def _draw(
    pipeline: Pipeline, settings: RenderSettings, resumption: Resumption | None, *, blocks: int | None = None
) -> list[RenderedBlock]:
    """All blocks, or the first few of them."""
    given = replace(_inputs(settings), resumption=resumption)
    rendering = pipeline.render(settings, inputs=given, should_stop=lambda: False)
    with closing(rendering):
        return list(islice(rendering, blocks))


def _inputs(settings: RenderSettings) -> RenderInputs:
    drawn = np.random.default_rng(1)
    return RenderInputs(
        read_samples=lambda count: drawn.standard_normal(count).astype(np.float32),
        total_samples=round(settings.frames / VIDEO_FPS * AUDIO_SAMPLE_RATE),
        image=drawn.integers(0, 256, (settings.height, settings.width, 3), dtype=np.uint8),
    )


if __name__ == "__main__":
    sys.exit(main())
