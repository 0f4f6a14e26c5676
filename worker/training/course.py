"""The whole training: its phases in their order, what passes from one to the next, and where it is kept meanwhile.

Knows files of its own directory: `state.pt` to go on from, `log.jsonl`, and at the end `avatar.safetensors`. A course
that was interrupted goes on from its state with the same results but for the order of sums.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worker.pipeline.audio_encoder import AudioEncoder
from worker.pipeline.checkpoint import Network, RandomWeights
from worker.pipeline.checkpoint.bundled import write_bundle
from worker.pipeline.checkpoint.fill import wanted_shapes
from worker.pipeline.dit.dit import DiT
from worker.pipeline.text_encoder import TextEncoder
from worker.training.acting import act
from worker.training.backstage import UnderWay
from worker.training.forcing import Forcing, SelfForcing, TeacherForcing
from worker.training.gradients import Lesson, player_for
from worker.training.hearing import Heard, Hearing, HearingLesson, Listening, sounds_of
from worker.training.journal import Journal
from worker.training.phase_run import PhaseRun
from worker.training.plan import Phase, Plan
from worker.training.pool import Casting, Part, Pool, fill_pool, prompts_of
from worker.training.seeing import Bank, SeeingLesson, fill_bank, latent_statistics, new_autoencoder, standardise
from worker.training.speech import Utterance

log = logging.getLogger(__name__)


class OtherCourse(ValueError):
    """The directory holds the state of a training with another seed, other speech or another plan."""


@dataclass(frozen=True)
class Place:
    """Where a course works: its directory and its device."""

    directory: Path
    device: torch.device

    @property
    def state(self) -> Path:
        return self.directory / "state.pt"

    @property
    def journal(self) -> Path:
        return self.directory / "log.jsonl"

    @property
    def weights(self) -> Path:
        return self.directory / "avatar.safetensors"


class Course:
    """One training from its beginning, or from where its directory says it was."""

    def __init__(self, plan: Plan, utterances: Sequence[Utterance], place: Place, *, seed: int) -> None:
        """Raises `OtherCourse`."""
        place.directory.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        config, device = plan.config, place.device
        drawn = RandomWeights(seed)
        self._plan = plan
        self._utterances = utterances
        self._place = place
        self._seed = seed
        self._text = TextEncoder(config.text, device=device, dtype=torch.float32, weights=drawn)
        self._encoder = AudioEncoder(config.audio, device=device, weights=drawn)
        self._sounds = sounds_of(utterances)
        self._hearing = Hearing(self._encoder, width=config.audio.hidden_size, sounds=self._sounds).to(device)
        self._autoencoder = new_autoencoder(config.vae)
        nn.Module.to(self._autoencoder, device)
        self._dit = DiT(config.dit).to(device)
        self._journal = Journal(place.journal)
        self._finished: list[Phase] = []
        self._interrupted: dict[str, Any] | None = None
        if place.state.is_file():
            self._read_state()

    def run(self, makers: Executor) -> Path:
        """The file of weights. `makers` have the corpus (`backstage.py`). Raises `TrainingBroken`."""
        pieces, parts = self._send_for_examples(makers)
        if Phase.SEEING not in self._finished:
            self._see()
        if Phase.HEARING not in self._finished:
            self._hear(pieces)
        if Phase.SELF_FORCING not in self._finished:
            self._force(self._pools(parts))
        self._export()
        return self._place.weights

    def _send_for_examples(self, makers: Executor) -> tuple[Iterable[Heard], list[Iterable[Part]]]:
        """Of what is still to be learned."""
        pieces: Iterable[Heard] = ()
        parts: list[Iterable[Part]] = []
        if Phase.HEARING not in self._finished:
            listening = Listening.of(self._sounds, self._plan, seed=self._seed)
            pieces = UnderWay(makers, listening, range(self._plan.hearing_pieces))
        if Phase.SELF_FORCING not in self._finished:
            for frame in self._plan.frames:
                casting = Casting.of(self._plan, frame, seed=self._seed)
                parts.append(UnderWay(makers, casting, range(self._plan.pool_clips)))
        return pieces, parts

    def _see(self) -> None:
        acted = [act(spoken, seed=number) for number, spoken in enumerate(self._utterances)]
        banks = [
            fill_bank(acted, frame, self._plan, seed=self._seed, device=self._place.device)
            for frame in self._plan.frames
        ]
        lesson = SeeingLesson(self._autoencoder, banks, self._plan, seed=self._seed)
        self._learn(Phase.SEEING, self._autoencoder, lesson, finish=lambda: self._standardise(banks))

    def _standardise(self, banks: Sequence[Bank]) -> None:
        mean, std = latent_statistics(self._autoencoder, banks, batches=self._plan.statistics_batches, batch=16)
        standardise(self._autoencoder, self._plan.config.vae, mean_c=mean, std_c=std)
        log.info("latents had deviations of %.3f to %.3f", float(std.min()), float(std.max()))

    def _hear(self, pieces: Iterable[Heard]) -> None:
        batch = self._plan.shares[Phase.HEARING].batch
        self._learn(Phase.HEARING, self._hearing, HearingLesson(self._hearing, pieces, batch=batch, seed=self._seed))

    def _pools(self, parts: Sequence[Iterable[Part]]) -> list[Pool]:
        self._hearing.requires_grad_(False)
        self._autoencoder.requires_grad_(False)
        pools = []
        for frame, cast in zip(self._plan.frames, parts, strict=True):
            log.info("drawing and encoding %d clips of %d x %d", self._plan.pool_clips, frame.width, frame.height)
            pools.append(
                fill_pool(
                    cast,
                    frame,
                    self._plan,
                    autoencoder=self._autoencoder,
                    hearing=self._encoder,
                    device=self._place.device,
                )
            )
        return pools

    def _force(self, pools: Sequence[Pool]) -> None:
        prompts = [self._text.encode(prompt) for prompt in prompts_of(self._plan.config)]
        for phase, way in ((Phase.TEACHER_FORCING, TeacherForcing), (Phase.SELF_FORCING, SelfForcing)):
            if phase in self._finished:
                continue
            share = self._plan.shares[phase]
            forcing = Forcing(self._dit, pools, prompts, self._plan, batch=share.batch, seed=self._seed)
            self._learn(phase, self._dit, way(forcing))
            self._export()

    def _learn(
        self,
        phase: Phase,
        network: nn.Module,
        lesson: Lesson,
        *,
        finish: Callable[[], None] | None = None,
    ) -> None:
        run = PhaseRun(phase, self._plan.shares[phase], network)
        if self._interrupted is not None:
            run.restore(self._interrupted)
            self._interrupted = None
        run.steps(
            lesson,
            player=player_for(self._place.device),
            journal=self._journal,
            save=lambda: self._write_state(run.state()),
            save_every_s=self._plan.save_every_s,
        )
        log.info("%s took %.0f s for %d steps", phase, run.seconds, run.step)
        if finish is not None:
            finish()
        self._finished.append(phase)
        self._write_state(None)

    def _identity(self) -> dict[str, str]:
        """What has to be the same for a training to go on."""
        sizes = " ".join(f"{frame.width}x{frame.height}" for frame in self._plan.frames)
        return {"seed": str(self._seed), "sounds": "".join(self._sounds), "sizes": sizes}

    def _networks(self) -> dict[str, nn.Module]:
        return {"hearing": self._hearing, "autoencoder": self._autoencoder, "dit": self._dit}

    def _write_state(self, interrupted: dict[str, Any] | None) -> None:
        unfinished = self._place.state.with_suffix(".part")
        networks = {name: network.state_dict() for name, network in self._networks().items()}
        torch.save(
            {
                "course": self._identity(),
                "finished": [str(phase) for phase in self._finished],
                "interrupted": interrupted,
                "networks": networks,
            },
            unfinished,
        )
        unfinished.replace(self._place.state)

    def _read_state(self) -> None:
        state = torch.load(self._place.state, map_location=self._place.device, weights_only=True)
        own = self._identity()
        other = [
            f"{what} {state['course'][what]}, not {own[what]}" for what in own if state["course"][what] != own[what]
        ]
        if other:
            raise OtherCourse(f"{self._place.state} is of {', and of '.join(other)}")
        for name, network in self._networks().items():
            network.load_state_dict(state["networks"][name])
        self._finished = [Phase(name) for name in state["finished"]]
        self._interrupted = state["interrupted"]
        log.info("going on after %s", ", ".join(self._finished) or "an interrupted beginning")

    def _export(self) -> None:
        write_bundle(
            self._place.weights,
            {
                Network.DIT: _tensors(self._dit),
                Network.VAE: _tensors(self._autoencoder),
                Network.TEXT: _tensors(self._text._network),
                Network.AUDIO: _tensors(self._encoder._network),
            },
            dtype=torch.float16,
        )


def _tensors(network: nn.Module) -> Mapping[str, Tensor]:
    """What a source of weights fills, under the module's own names."""
    kept = network.state_dict()
    return {name: kept[name] for name in wanted_shapes(network)}
