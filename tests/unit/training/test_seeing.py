from dataclasses import replace

import torch

from worker.pipeline.config import AVATAR
from worker.training.plan import TINY, View
from worker.training.seeing import Bank, SeeingLesson, new_autoencoder, standardise


def test_standard_latents_decode_to_the_same_pixels() -> None:
    torch.manual_seed(1)
    network = new_autoencoder(AVATAR.vae).eval()
    pixels = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    with torch.no_grad():
        before = network.encode(pixels).latent_dist
        latents, deviation = before.mode(), before.std
        made = network.decode(latents).sample
        mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
        standardise(network, AVATAR.vae, mean_c=mean, std_c=std)
        after = network.encode(pixels).latent_dist
        again = network.decode(after.mode()).sample
    wanted_mean, wanted_std = (torch.tensor(v) for v in (AVATAR.vae.latents_mean, AVATAR.vae.latents_std))
    assert torch.allclose(after.mode().mean((0, 2, 3, 4)), wanted_mean, atol=1e-3)
    assert torch.allclose(after.mode().std((0, 2, 3, 4)), wanted_std, atol=1e-2)
    assert torch.allclose(again, made, atol=1e-3)
    assert torch.allclose(after.std / deviation, (wanted_std / std)[None, :, None, None, None], rtol=1e-2)


def test_the_posterior_begins_certain_of_itself() -> None:
    torch.manual_seed(2)
    with torch.no_grad():
        posterior = new_autoencoder(AVATAR.vae).encode(torch.rand(1, 3, 1, 32, 32) * 2 - 1).latent_dist
    assert posterior.std.mean() < 0.5 * posterior.mean.std()


def test_a_clip_begins_as_its_pictures_wherever_they_are_in_it() -> None:
    torch.manual_seed(3)
    network = new_autoencoder(AVATAR.vae).eval()
    clip = torch.rand(1, 3, 13, 32, 32) * 2 - 1
    with torch.no_grad():
        made = network.decode(network.encode(clip).latent_dist.mode()).sample
        for last in (0, 4, 8, 12):
            alone = network.decode(network.encode(clip[:, :, last : last + 1]).latent_dist.mode()).sample
            assert alone.std() > 0.05
            for frame in range(max(0, last - 3), last + 1):
                assert torch.allclose(made[:, :, frame], alone[:, :, 0], atol=1e-4)


def test_views_come_in_their_order_and_the_last_one_stays() -> None:
    plan = replace(
        TINY,
        seeing_views=(View(2, parts=((1, 2),), whole=(1, 1)), View(9, parts=((5, 1), (9, 1)), whole=(5, 1))),
        seeing_crop=32,
    )
    banks = [
        Bank(f, torch.zeros(3, 13, 3, f.height, f.width, dtype=torch.uint8), torch.ones(f.height, f.width))
        for f in plan.frames
    ]
    lesson = SeeingLesson(new_autoencoder(AVATAR.vae), banks, plan, seed=0)
    shapes: dict[int, set[tuple[int, ...]]] = {}
    lengths = []
    for step in range(60):
        examples = lesson.examples(step)
        shapes.setdefault(examples.key, set()).add(tuple(examples.tensors["pixels"].shape))
        lengths.append(examples.tensors["pixels"].shape[2])
    assert lengths[:4] == [1] * 4  # of both sizes
    assert set(lengths[4:]) == {5, 9}
    assert all(len(of_key) == 1 for of_key in shapes.values())
