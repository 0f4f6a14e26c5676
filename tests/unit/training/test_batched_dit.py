"""Training computes what inference computes: the same weights give the same latents and the same flows."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from worker.pipeline.checkpoint import Network, RandomWeights
from worker.pipeline.config import AVATAR, DiTConfig
from worker.pipeline.denoiser import Denoiser, read_times, whole_picture
from worker.pipeline.dit.audio_net import rows_for
from worker.pipeline.dit.dit import DiT
from worker.pipeline.parallel import SequenceParallel
from worker.pipeline.schedule import denoising_steps
from worker.training.batched_dit import BatchedDiT, Keys, Scene
from worker.training.rollout import roll_out

CONFIG = replace(AVATAR.dit, dim=64, ffn_dim=96, num_layers=3, audio_inject_layers=(0, 2))
CLIPS, BLOCKS, HEIGHT, WIDTH = 2, 13, 6, 4
"""The reference frame turns from block 10 on."""
STEPS = denoising_steps(2)


class _Inference:
    """Two clips made one after the other by the pipeline's own denoiser."""

    def __init__(self) -> None:
        torch.manual_seed(5)
        self.dit = _network(CONFIG)
        picture = (CONFIG.in_dim, CONFIG.num_frame_per_block, HEIGHT, WIDTH)
        self.noise = torch.randn(len(STEPS), CLIPS, BLOCKS, *picture)
        self.reference = torch.randn(CLIPS, CONFIG.in_dim, HEIGHT, WIDTH)
        window = (CONFIG.audio_layers, CONFIG.audio_dim, rows_for(CONFIG.num_frame_per_block))
        self.windows = torch.randn(CLIPS, BLOCKS, *window)
        self.prompt = torch.zeros(CONFIG.text_len, CONFIG.text_dim)
        self.prompt[:9] = torch.randn(9, CONFIG.text_dim)
        self.denoiser = Denoiser(
            self.dit,
            times=read_times(self.dit, STEPS),
            strips=whole_picture(HEIGHT, WIDTH),
            strip=whole_picture(HEIGHT, WIDTH)[0],
            sequence=SequenceParallel(size=1, group=None),
        )
        with torch.no_grad():
            self.clean = torch.stack([self._clip(clip) for clip in range(CLIPS)])

    def _clip(self, clip: int) -> Tensor:
        self.start(clip)
        return torch.stack([self.made(clip, block) for block in range(BLOCKS)])

    def start(self, clip: int) -> None:
        self.denoiser.start(self.reference[clip][:, None], prompt=self.prompt, prompt_rows=9)

    def made(self, clip: int, block: int) -> Tensor:
        return self.denoiser.denoise(
            block, window=self.windows[clip, block], noise=lambda b, s: self.noise[s, clip, b], steps=STEPS
        )


def _network(config: DiTConfig) -> DiT:
    with torch.device("meta"):
        dit = DiT(config)
    RandomWeights(3).fill(dit, Network.DIT, device=torch.device("cpu"), dtype=torch.float32)
    return dit


@pytest.fixture(scope="module")
def inference() -> _Inference:
    return _Inference()


def _scene(inference: _Inference, network: BatchedDiT) -> Scene:
    text = inference.dit.read_text(inference.prompt, prompt_rows=9)
    return Scene(
        turns=network.turns(0, BLOCKS),
        frames=CONFIG.num_frame_per_block,
        audio=network.read_audio(inference.windows.flatten(0, 1)),
        text=text,
        reference=network.read_reference(inference.reference, text=text),
    )


def _before(finished: Keys) -> Keys:
    """For every block the keys of the one before it, for the first zeros, which are none."""

    def later(x_Bn: Tensor) -> Tensor:
        return torch.cat((torch.zeros_like(x_Bn[:, :1]), x_Bn[:, :-1]), dim=1)

    return Keys(tuple(map(later, finished.keys)), tuple(map(later, finished.values)))


def _distance(made: Tensor, wanted: Tensor) -> float:
    return float((made - wanted).abs().max() / wanted.abs().max())


def test_a_rollout_makes_the_latents_of_inference(inference: _Inference) -> None:
    network = BatchedDiT(inference.dit, height=HEIGHT, width=WIDTH)
    with torch.no_grad():
        made = roll_out(network, _scene(inference, network), noise=inference.noise, steps=STEPS)
    assert _distance(made.clean, inference.clean) < 1e-5
    assert torch.equal(made.noisy[0], inference.noise[0])


def test_all_blocks_at_once_have_the_flows_of_inference(inference: _Inference) -> None:
    network = BatchedDiT(inference.dit, height=HEIGHT, width=WIDTH)
    noisy = torch.randn(inference.clean.shape, generator=torch.Generator().manual_seed(8))
    step = STEPS[1]
    wanted = torch.zeros_like(noisy)
    with torch.no_grad():
        for clip in range(CLIPS):
            inference.start(clip)
            for block in range(BLOCKS):
                window = inference.windows[clip, block]
                wanted[clip, block] = inference.denoiser.flow(
                    block, window=window, latents=noisy[clip, block], step=step
                )
                inference.denoiser.replay(block, window=window, latents=inference.clean[clip, block])
        scene = _scene(inference, network)
        finished = network.context(inference.clean, scene)
        flow = network.flow(noisy, torch.full((CLIPS, BLOCKS), step.timestep), scene, before=_before(finished))
    assert _distance(flow, wanted) < 1e-5


def test_a_block_sees_its_own_timestep_sound_and_past(inference: _Inference) -> None:
    network = BatchedDiT(inference.dit, height=HEIGHT, width=WIDTH)

    def flows(*, windows: Tensor = inference.windows, clean: Tensor = inference.clean, late: float = 750.0) -> Tensor:
        text = inference.dit.read_text(inference.prompt, prompt_rows=9)
        heard = network.read_audio(windows.flatten(0, 1))
        reference = network.read_reference(inference.reference, text=text)
        scene = Scene(turns=network.turns(0, BLOCKS), frames=2, audio=heard, text=text, reference=reference)
        times = torch.full((CLIPS, BLOCKS), 750.0)
        times[:, 5] = late
        with torch.no_grad():
            finished = network.context(clean, scene)
            return network.flow(inference.noise[0], times, scene, before=_before(finished))

    usual = flows()
    louder, other = inference.windows.clone(), inference.clean.clone()
    louder[:, 5] += 1
    other[:, 5] += 1
    for changed, expected in (
        (flows(late=1000.0), [5]),
        (flows(windows=louder), [5, 6, 7]),  # the keys of layer 0 hear nothing, and each layer reaches a block further
        (flows(clean=other), [6, 7, 8]),
    ):
        differs = [i for i in range(BLOCKS) if not torch.allclose(changed[:, i], usual[:, i], atol=1e-6)]
        assert differs == expected


def test_every_parameter_that_inference_uses_learns(inference: _Inference) -> None:
    dit = _network(CONFIG).requires_grad_(True)
    network = BatchedDiT(dit, height=HEIGHT, width=WIDTH)
    text = dit.read_text(inference.prompt, prompt_rows=9)
    scene = Scene(
        turns=network.turns(4, BLOCKS),
        frames=2,
        audio=network.read_audio(inference.windows.flatten(0, 1)),
        text=text,
        reference=network.read_reference(inference.reference, text=text),
    )
    finished: Keys = network.context(inference.clean, scene)
    flow = network.flow(inference.noise[0], torch.full((CLIPS, BLOCKS), 1000.0), scene, before=_before(finished))
    flow.square().mean().backward()
    still = {name for name, parameter in dit.named_parameters() if parameter.grad is None}
    assert still == set()
    zero = {name for name, parameter in dit.named_parameters() if not parameter.grad.abs().sum()}
    assert zero == set()


def test_a_block_that_is_not_there_changes_nothing_for_those_behind_it(inference: _Inference) -> None:
    network = BatchedDiT(inference.dit, height=HEIGHT, width=WIDTH)
    with torch.no_grad():
        scene = _scene(inference, network)
        alone = network.context(inference.clean[:, 1:], scene.of_blocks(slice(1, None), clips=CLIPS))
        there = torch.tensor([0.0] + [1.0] * (BLOCKS - 1))
        behind = network.context(inference.clean, scene, there_n=there)
    for made, wanted in ((behind.keys, alone.keys), (behind.values, alone.values)):
        assert all(_distance(x[:, 1:], y) < 1e-5 for x, y in zip(made, wanted, strict=True))
    assert not any(key[:, 0].any() for key in behind.keys)
