"""Sound to one row of features per pixel frame (specification, section 9).

Knows wav2vec2 and the two ways to feed it a long sound; not what becomes of the rows. The network is transformers'
`Wav2Vec2Model`; the states of all its layers are used. Memory does not grow with the length of the sound.

How far windows are from one pass over the whole sound, in relative L2: nothing but rounding (1e-4) up to 25 s, and at
most 5e-2 beyond with drawn weights, whose attention is spread over everything, which is the worst case for windows. The
reference's pieces of 5 s are at 4e-1 there, because each is normalised by itself as well.

Shapes: N states, T frames at 50 per second, D width, R rows at 16 per second.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2Model

from worker.pipeline.audio_features import RowStream, bucket, interpolate
from worker.pipeline.audio_mode import AudioMode
from worker.pipeline.audio_padding import SAMPLES_PER_ROW, SEGMENT_SAMPLES, audio_rows, padded_samples
from worker.pipeline.audio_windows import Window, joined, windows
from worker.pipeline.checkpoint import Network, WeightSource
from worker.pipeline.config import AudioEncoderConfig
from worker.pipeline.sound import KeptSound, ReadSamples, Samples, normalised, read_exactly

__all__ = ["AudioEncoder", "AudioMode", "ReadSamples"]


class AudioEncoder:
    """wav2vec2 on one device. In float32 unless told otherwise, as the reference runs it. Raises `CheckpointError`."""

    def __init__(
        self,
        config: AudioEncoderConfig,
        *,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        weights: WeightSource,
    ) -> None:
        with torch.device("meta"):
            network: nn.Module = Wav2Vec2Model(
                Wav2Vec2Config(
                    hidden_size=config.hidden_size,
                    num_hidden_layers=config.num_layers,
                    num_attention_heads=config.num_heads,
                    intermediate_size=config.intermediate_size,
                    conv_dim=config.conv_dim,
                    conv_kernel=config.conv_kernel,
                    conv_stride=config.conv_stride,
                    num_conv_pos_embeddings=config.num_conv_pos_embeddings,
                    num_conv_pos_embedding_groups=config.num_conv_pos_embedding_groups,
                    layer_norm_eps=config.layer_norm_eps,
                    vocab_size=config.vocab_size,
                    conv_bias=True,
                    feat_extract_norm="layer",
                    do_stable_layer_norm=True,
                    mask_time_prob=0.0,  # a mask for training, which would want a parameter
                    mask_feature_prob=0.0,
                )
            )
        weights.fill(network, Network.AUDIO, device=device, dtype=dtype)
        self._network = network.eval()
        self._device = device
        self._dtype = dtype
        self._samples_per_frame = int(np.prod(config.conv_stride))
        self._samples_seen = _receptive_field(config)

    def rows(
        self, read_samples: ReadSamples, *, total_samples: int, mode: AudioMode = AudioMode.WINDOWED
    ) -> Iterator[Tensor]:
        """Rows in order, in pieces [N, D, R]: one per pixel frame of the sound, padded with zeros to whole seconds.

        `read_samples` is called from front to back until it has given `total_samples`. Raises ValueError for a sound
        of no samples, and while iterating `UnusableSound` for one that ends early or holds something not finite.
        """
        padded = padded_samples(total_samples)
        if mode is AudioMode.REFERENCE:
            return self._rows_of_segments(read_samples, total_samples=total_samples)
        return self._rows_of_windows(read_samples, total_samples=total_samples, padded=padded)

    def frames(self, samples: int) -> int:
        """Frames that so many samples give."""
        return (samples - self._samples_seen) // self._samples_per_frame + 1

    @torch.no_grad()
    def states(self, samples: Samples) -> Tensor:
        """All states [N, T, D] of normalised samples: the input of the first layer, then the output of every layer.

        The last one is after the final norm. transformers before 5 did the same, 5 has it before the norm there, hence
        `last_hidden_state`.
        """
        wave_1n = torch.from_numpy(samples).to(self._device, self._dtype)[None]
        made = self._network(wave_1n, output_hidden_states=True)
        return torch.cat((*made.hidden_states[:-1], made.last_hidden_state))

    def _rows_of_segments(self, read_samples: ReadSamples, *, total_samples: int) -> Iterator[Tensor]:
        for samples in read_exactly(read_samples, total_samples=total_samples, at_once=SEGMENT_SAMPLES):
            yield self.segment_rows(np.pad(samples, (0, padded_samples(len(samples)) - len(samples))))

    def segment_rows(self, padded: Samples) -> Tensor:
        """Rows [N, D, R] of one padded piece of sound, encoded as the reference does: all at once, by itself."""
        exact = padded.astype(np.float64)
        wave = normalised(padded, mean=float(exact.mean()), variance=float(exact.var()))
        between_NTD = interpolate(self.states(wave))
        return bucket(between_NTD, batch_frames=len(padded) // SAMPLES_PER_ROW).permute(1, 2, 0)

    def _rows_of_windows(self, read_samples: ReadSamples, *, total_samples: int, padded: int) -> Iterator[Tensor]:
        total_frames = self.frames(padded)
        stream = RowStream(total_frames=total_frames, total_rows=audio_rows(padded))
        with KeptSound(read_samples, total_samples=total_samples, padded_samples=padded) as sound:
            encoded = ((window, self._window_states(sound, window)) for window in windows(total_frames))
            for frames_NTD in joined(encoded):
                rows_NDR = stream.push(frames_NTD)
                if rows_NDR.shape[2]:
                    yield rows_NDR

    def _window_states(self, sound: KeptSound, window: Window) -> Tensor:
        """A window's frames lie exactly where those of the whole sound do, since it starts on one of them."""
        stop = (window.stop - 1) * self._samples_per_frame + self._samples_seen
        return self.states(sound.normalised(window.start * self._samples_per_frame, stop))


def _receptive_field(config: AudioEncoderConfig) -> int:
    """Samples that one frame sees: 400 for the released sizes."""
    seen = 1
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        seen = (seen - 1) * stride + kernel
    return seen
