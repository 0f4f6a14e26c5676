"""Recorded steps of the avatar's training against computed ones on a GPU: `python -m tests.gpu.training`.

For each phase the gradients of a few steps at the same weights, by both ways, and what a step takes. Exits with 1 when
they differ by more than two computations of the same step may.
"""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from worker.pipeline.audio_encoder import AudioEncoder
from worker.pipeline.checkpoint import RandomWeights
from worker.pipeline.dit.dit import DiT
from worker.pipeline.dit.recording import DirectPlayer, Player
from worker.pipeline.text_encoder import TextEncoder
from worker.training.acting import act
from worker.training.backstage import UnderWay, enter
from worker.training.forcing import Forcing, SelfForcing, TeacherForcing
from worker.training.gradients import Gradients, Lesson, player_for
from worker.training.hearing import Hearing, HearingLesson, Listening, sounds_of
from worker.training.plan import FULL, Phase, Plan
from worker.training.pool import Casting, fill_pool, prompts_of
from worker.training.seeing import SeeingLesson, fill_bank, new_autoencoder
from worker.training.speech import Utterance, read_corpus

STEPS = 56
"""Enough that every key comes twice, where a view of the VAE changes after so few turns."""
TURNS = 7
MOST_APART = 0.05
"""Of gradients in bfloat16, relative."""
SEED = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--speech", type=Path, default=Path("tests/fixtures/avatar/unheard.speech"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=2.0, help="for timing each phase")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    torch.manual_seed(SEED)
    views = tuple(replace(view, turns=TURNS) for view in FULL.seeing_views)
    plan = replace(FULL, seeing_views=views, seeing_clips=64, hearing_pieces=64, pool_clips=16)
    worst = 0.0
    for phase, (lesson, network) in _lessons(plan, read_corpus(asked.speech), device).items():
        network.requires_grad_(True)
        computed = _gradients(lesson, network, DirectPlayer())
        again = _gradients(lesson, network, DirectPlayer())
        recorded = _gradients(lesson, network, player_for(device))
        chance = max(_apart(a, b) for a, b in zip(again, computed, strict=True))
        apart = max(_apart(a, b) for a, b in zip(recorded, computed, strict=True))
        worst = max(worst, apart)
        direct_ms, recorded_ms = (_milliseconds(lesson, network, p, asked.seconds) for p in (None, player_for(device)))
        print(
            f"{phase}: recorded {apart:.1e} off, computed again {chance:.1e}; "
            f"{direct_ms:.0f} ms a step computed, {recorded_ms:.0f} recorded",
            flush=True,
        )
    print(f"TRAINING: gradients at most {worst:.1e} apart: {'good' if worst <= MOST_APART else 'BAD'}")
    return 0 if worst <= MOST_APART else 1


def _lessons(
    plan: Plan, utterances: tuple[Utterance, ...], device: torch.device
) -> dict[Phase, tuple[Lesson, nn.Module]]:
    config, drawn = plan.config, RandomWeights(SEED)
    batch = {phase: share.batch for phase, share in plan.shares.items()}
    autoencoder = new_autoencoder(config.vae)
    nn.Module.to(autoencoder, device)
    acted = [act(spoken, seed=0) for spoken in utterances]
    banks = [fill_bank(acted, frame, plan, seed=SEED, device=device) for frame in plan.frames]
    encoder = AudioEncoder(config.audio, device=device, weights=drawn)
    sounds = sounds_of(utterances)
    hearing = Hearing(encoder, width=config.audio.hidden_size, sounds=sounds).to(device)
    dit = DiT(config.dit).to(device)
    with torch.no_grad():
        for parameter in dit.parameters():  # some begin as zeros, behind which nothing is to be seen
            parameter.add_(0.02 * torch.randn_like(parameter))
    text = TextEncoder(config.text, device=device, dtype=torch.float32, weights=drawn)
    prompts = [text.encode(prompt) for prompt in prompts_of(config)]
    with ThreadPoolExecutor(1, initializer=enter, initargs=(utterances,)) as makers:
        pieces = UnderWay(makers, Listening.of(sounds, plan, seed=SEED), range(plan.hearing_pieces))
        listening = HearingLesson(hearing, pieces, batch=batch[Phase.HEARING], seed=SEED)
        pools = [
            fill_pool(
                UnderWay(makers, Casting.of(plan, frame, seed=SEED), range(plan.pool_clips)),
                frame,
                plan,
                autoencoder=autoencoder,
                hearing=encoder,
                device=device,
            )
            for frame in plan.frames
        ]
    forcing = Forcing(dit, pools, prompts, plan, batch=batch[Phase.TEACHER_FORCING], seed=SEED)
    return {
        Phase.SEEING: (SeeingLesson(autoencoder, banks, plan, seed=SEED), autoencoder),
        Phase.HEARING: (listening, hearing),
        Phase.TEACHER_FORCING: (TeacherForcing(forcing), dit),
        Phase.SELF_FORCING: (SelfForcing(forcing), dit),
    }


def _gradients(lesson: Lesson, network: nn.Module, player: Player) -> list[Tensor]:
    gradients = Gradients(lesson, network, player)
    made = []
    for step in range(STEPS):
        gradients.of_step(step)
        made.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]).clone())
    return made


def _apart(made: Tensor, wanted: Tensor) -> float:
    return float((made - wanted).norm() / wanted.norm())


def _milliseconds(lesson: Lesson, network: nn.Module, player: Player | None, seconds: float) -> float:
    gradients = Gradients(lesson, network, player or DirectPlayer())
    for step in range(STEPS):
        gradients.of_step(step)[1].sum().item()
    began, steps = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        gradients.of_step(STEPS + steps)[1].sum().item()
        steps += 1
    return 1000 * (time.monotonic() - began) / steps


if __name__ == "__main__":
    sys.exit(main())
