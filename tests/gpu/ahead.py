"""Inputs encoded ahead on a GPU, while another video is drawn: `python -m tests.gpu.ahead`.

Renders a video from its inputs alone, and then from what was encoded ahead, again and again, while a thread encodes
other inputs without a pause. The frames must be the same. Exits with 1 when they are not.
"""

import argparse
import sys
import threading
import time

import numpy as np
import torch
from numpy.typing import NDArray

from worker.bench.stand_ins import PROMPT, weights_from, with_byte_tokenizer
from worker.pipeline.compute import Compute
from worker.pipeline.config import AUDIO_SAMPLE_RATE, VIDEO_FPS, preset
from worker.pipeline.encoders import Encoded
from worker.pipeline.parallel import RankLayout
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.settings import RenderInputs, RenderSettings

MOST_DIFFERENCE = 1
"""Levels of a pixel, should a kernel be chosen by its time."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    pipeline = Pipeline.create(
        with_byte_tokenizer(preset(arguments.preset)),
        layout=RankLayout.alone(),
        compute=Compute.on(torch.device(arguments.device)),
        weights=weights_from(None),
    )
    settings = RenderSettings(
        height=arguments.side,
        width=arguments.side,
        frames=round(arguments.seconds * VIDEO_FPS),
        seed=0,
        denoising_steps=2,
        prompt=PROMPT,
    )
    _draw(pipeline, settings, _inputs(settings, seed=1))  # compiles and tunes
    alone = _draw(pipeline, settings, _inputs(settings, seed=1))
    ended, encodings = threading.Event(), []
    thread = threading.Thread(target=_encode_others, args=(pipeline, settings, ended, encodings))
    thread.start()
    worst = 0
    for number in range(arguments.rounds):
        frames = _draw(pipeline, settings, pipeline.prepare(settings, _inputs(settings, seed=1)))
        difference = int(np.abs(frames.astype(int) - alone).max())
        print(f"round {number}: {len(frames)} frames, at most {difference} levels off", flush=True)
        worst = max(worst, difference)
    ended.set()
    thread.join(timeout=60)
    is_good = worst <= MOST_DIFFERENCE and not thread.is_alive() and len(encodings) > arguments.rounds
    print(f"AHEAD {arguments.preset}: {len(encodings)} other inputs were encoded meanwhile", end=", ")
    print(f"frames at most {worst} levels off: {'good' if is_good else 'NOT GOOD'}")
    return 0 if is_good else 1


def _encode_others(pipeline: Pipeline, settings: RenderSettings, ended: threading.Event, took_s: list[float]) -> None:
    seed = 100
    while not ended.is_set():
        seed += 1
        began = time.monotonic()
        pipeline.prepare(settings, _inputs(settings, seed=seed))
        took_s.append(time.monotonic() - began)


def _inputs(settings: RenderSettings, *, seed: int) -> RenderInputs:
    drawn = np.random.default_rng(seed)
    samples = round(settings.frames / VIDEO_FPS * AUDIO_SAMPLE_RATE)
    return RenderInputs(
        read_samples=lambda count: drawn.standard_normal(count).astype(np.float32),
        total_samples=samples,
        image=drawn.integers(0, 256, (settings.height, settings.width, 3), dtype=np.uint8),
    )


def _draw(pipeline: Pipeline, settings: RenderSettings, given: RenderInputs | Encoded) -> NDArray[np.uint8]:
    blocks = pipeline.render(settings, inputs=given, should_stop=lambda: False)
    return np.concatenate([block.frames for block in blocks])


if __name__ == "__main__":
    sys.exit(main())
