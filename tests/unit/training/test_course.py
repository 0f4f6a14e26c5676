"""The whole training on a processor, a few steps of each phase: that it runs, resumes and fits the pipeline."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.unit.training.heard import unheard
from worker.pipeline.checkpoint.bundled import BundledWeights
from worker.pipeline.compute import Compute
from worker.pipeline.config import AVATAR
from worker.pipeline.parallel import RankLayout
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.prompt import USUAL_PROMPT
from worker.pipeline.settings import RenderInputs, RenderSettings
from worker.pipeline.vae import VideoAutoencoder
from worker.training.backstage import enter
from worker.training.course import Course, OtherCourse, Place
from worker.training.drawing import portrait
from worker.training.faces import Frame, face
from worker.training.journal import read_curves
from worker.training.plan import FULL, TINY, Phase, Plan

CPU = torch.device("cpu")
PLAN = replace(
    TINY,
    frames=(Frame(64, 64),),
    shares={phase: replace(share, minutes=1000.0, most_steps=2) for phase, share in TINY.shares.items()},
    pool_clips=1,
    hearing_pieces=2,
    seeing_clips=2,
    pool_blocks=3,
    save_every_s=0.0,
)


class _Interrupted(Exception):
    """Stands for a machine that is taken away."""


class _InterruptedCourse(Course):
    """Goes away after its first saved step of self-forcing."""

    def _write_state(self, interrupted) -> None:
        super()._write_state(interrupted)
        if interrupted is not None and self._finished[-1:] == [Phase.TEACHER_FORCING]:
            raise _Interrupted


def _place(directory: Path) -> Place:
    return Place(directory=directory, device=CPU)


@pytest.fixture(scope="module")
def makers() -> Iterator[Executor]:
    with ThreadPoolExecutor(1, initializer=enter, initargs=(unheard()[:3],)) as threads:
        yield threads


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, makers: Executor) -> Place:
    place = _place(tmp_path_factory.mktemp("avatar"))
    Course(PLAN, unheard()[:3], place, seed=4).run(makers)
    return place


def test_all_phases_leave_weights_of_at_most_20_mb(trained: Place) -> None:
    assert trained.weights.stat().st_size < 20e6
    assert {Phase(phase) for phase, _ in read_curves(trained.journal)} == set(Phase)


def test_the_pipeline_renders_with_what_was_trained(trained: Place) -> None:
    pipeline = Pipeline.create(
        AVATAR, layout=RankLayout.alone(), compute=Compute.on(CPU), weights=BundledWeights(trained.weights)
    )
    settings = RenderSettings(height=64, width=64, frames=9, seed=0, denoising_steps=2, prompt=USUAL_PROMPT)
    sound = iter(np.split(unheard()[0].samples[:16_000], 4))
    inputs = RenderInputs(
        read_samples=lambda _count: next(sound, np.zeros(0, np.float32)),
        total_samples=16_000,
        image=portrait(face(1), Frame(64, 64)),
    )
    blocks = list(pipeline.render(settings, inputs=inputs, should_stop=lambda: False))
    assert sum(len(block.frames) for block in blocks) == 9


def test_latents_of_drawn_faces_are_standard_for_the_pipeline(trained: Place) -> None:
    vae = VideoAutoencoder(AVATAR.vae, device=CPU, dtype=torch.float32, weights=BundledWeights(trained.weights))
    latents = torch.cat([vae.encode_image(portrait(face(seed), Frame(64, 64))) for seed in range(40)], dim=1)
    assert latents.mean().abs() < 0.5
    assert 0.5 < latents.std() < 2.0


def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(
    trained: Place, makers: Executor, tmp_path: Path
) -> None:
    with pytest.raises(_Interrupted):
        _InterruptedCourse(PLAN, unheard()[:3], _place(tmp_path), seed=4).run(makers)
    resumed = load_file(Course(PLAN, unheard()[:3], _place(tmp_path), seed=4).run(makers))
    straight = load_file(trained.weights)
    assert resumed.keys() == straight.keys()
    moved = [name for name in straight if not torch.allclose(resumed[name], straight[name], atol=1e-5)]
    assert moved == []


def test_a_directory_of_another_seed_is_refused(trained: Place) -> None:
    with pytest.raises(OtherCourse, match="seed 4"):
        Course(PLAN, unheard()[:3], trained, seed=5)


def test_a_training_on_other_speech_or_in_other_sizes_does_not_go_on(trained: Place) -> None:
    with pytest.raises(OtherCourse, match="sounds"):
        Course(PLAN, unheard()[:1], trained, seed=4)
    with pytest.raises(OtherCourse, match="sizes 64x64, not 192x192 144x192"):
        Course(replace(PLAN, frames=FULL.frames), unheard()[:3], trained, seed=4)


def test_a_plan_lasts_as_long_as_it_is_told() -> None:
    def minutes(plan: Plan) -> float:
        return sum(share.minutes for share in plan.shares.values())

    assert minutes(FULL) < 23
    assert minutes(FULL.lasting(5.0)) == pytest.approx(5.0)
