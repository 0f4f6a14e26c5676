"""The same video without any memory of the pipeline: what its caches are held to.

Blocks are made by the forward that the network was trained with, which is handed the keys of the block before instead
of keeping them in a ring, and their latents are decoded in one call at the end.
"""

from pathlib import Path

import numpy as np
import torch

from tests.bench.avatar.clips import Clip
from worker.pipeline.audio_encoder import AudioEncoder
from worker.pipeline.checkpoint import BundledWeights, Network
from worker.pipeline.conditioning import block_count
from worker.pipeline.config import AVATAR, PIXELS_PER_LATENT
from worker.pipeline.dit.dit import DiT
from worker.pipeline.noise import block_noise
from worker.pipeline.prompt import USUAL_PROMPT
from worker.pipeline.schedule import denoising_steps
from worker.pipeline.text_encoder import TextEncoder
from worker.pipeline.vae import VideoAutoencoder, to_uint8
from worker.training.batched_dit import BatchedDiT, Scene
from worker.training.drawing import portrait
from worker.training.pool import windows_of
from worker.training.rollout import roll_out

_STEPS = denoising_steps(2)


class Plain:
    """A `Source`. Raises `CheckpointError`."""

    def __init__(self, weights: Path) -> None:
        source, device = BundledWeights(weights), torch.device("cpu")
        self._text = TextEncoder(AVATAR.text, device=device, dtype=torch.float32, weights=source)
        self._hearing = AudioEncoder(AVATAR.audio, device=device, weights=source)
        self._autoencoder = VideoAutoencoder(AVATAR.vae, device=device, dtype=torch.float32, weights=source)
        with torch.device("meta"):
            self._dit = DiT(AVATAR.dit)
        source.fill(self._dit, Network.DIT, device=device, dtype=torch.float32)

    @torch.no_grad()
    def frames(self, clip: Clip) -> np.ndarray:
        """uint8 [T, H, W, 3]."""
        config, blocks = AVATAR.dit, block_count(AVATAR.dit, len(clip.truth))
        height, width = clip.frame.height // PIXELS_PER_LATENT, clip.frame.width // PIXELS_PER_LATENT
        windows = windows_of(clip.acted, config, blocks=blocks, hearing=self._hearing)
        reference = self._autoencoder.encode_image(portrait(clip.person, clip.frame))
        prompt = self._text.encode(USUAL_PROMPT)
        network = BatchedDiT(self._dit, height=height, width=width)
        text = self._dit.read_text(prompt.rows, prompt_rows=prompt.length)
        scene = Scene(
            turns=network.turns(0, blocks),
            frames=config.num_frame_per_block,
            audio=network.read_audio(windows),
            text=text,
            reference=network.read_reference(reference[None, :, 0], text=text),
        )
        shape = (config.in_dim, config.num_frame_per_block, height, width)
        noise = [
            torch.stack([block_noise(0, block=block, step=step.index, shape=shape) for block in range(blocks)])
            for step in _STEPS
        ]
        clean_ncfhw = roll_out(network, scene, noise=torch.stack(noise)[:, None], steps=_STEPS).clean[0]
        latents_cThw = clean_ncfhw.transpose(0, 1).flatten(1, 2)
        pixels = self._autoencoder._network.decode(self._autoencoder.denormalise(latents_cThw)[None]).sample[0]
        return to_uint8(pixels.clamp(-1, 1)).numpy()[: len(clip.truth)]
