"""Sizes of the four networks and the presets that name a full set of them.

Knows numbers only: no tensors, no files, no devices. The released sizes are those of `Wan-AI/Wan2.2-S2V-14B` and
`zai-org/RealVideo` (model specification, sections 2, 3, 9, 10 and 11). `tiny` and `avatar` have the same architecture,
small enough for two processor cores: the weights of `tiny` are drawn from a seed, those of `avatar` come with the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from worker.pipeline.errors import InvalidRender, UnknownPreset

VIDEO_FPS = 16
"""Pixel frames per second that the network makes; one audio feature row belongs to each."""

AUDIO_SAMPLE_RATE = 16_000
"""Samples per second of the mono sound that the audio encoder reads."""

PIXELS_PER_LATENT = 8
"""Pixels on a side of one latent cell."""

FRAMES_PER_LATENT = 4
"""Pixel frames of one latent frame (the first latent frame of a stream gives a single one)."""


@dataclass(frozen=True)
class DiTConfig:
    """The causal speech-to-video DiT (specification, section 3)."""

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    text_dim: int
    text_len: int
    audio_dim: int
    """Width of one wav2vec2 state."""
    audio_layers: int
    """Number of wav2vec2 states mixed by the causal audio encoder: its layers + 1."""
    audio_inject_layers: tuple[int, ...]
    freq_dim: int = 256
    in_dim: int = 16
    out_dim: int = 16
    patch: tuple[int, int, int] = (1, 2, 2)
    num_audio_token: int = 4
    eps: float = 1e-6
    adain_eps: float = 1e-5
    """Of the norm in front of the audio injection only (quirk 6)."""
    num_frame_per_block: int = 2
    sink_frames: int = 1
    ring_blocks: int = 2
    """Blocks kept in the attention cache besides the sink, the running one included."""
    sink_position: int = 30
    """Time position of the reference frame."""
    sink_turns_after: int = 20
    """The sink turns by one at every block whose first time position is beyond this one (quirk 1)."""

    def __post_init__(self) -> None:
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise ValueError(f"dim {self.dim} does not split into {self.num_heads} heads of even size")
        if self.dim % 4:
            raise ValueError(f"dim {self.dim} is not a multiple of 4, which the audio encoder needs")
        if self.patch != (1, 2, 2):
            raise ValueError(f"patch {self.patch} is not (1, 2, 2), the only one the head can put back")
        beyond = [layer for layer in self.audio_inject_layers if not 0 <= layer < self.num_layers]
        if beyond:
            raise ValueError(f"audio is injected after layers {beyond}, but there are {self.num_layers}")

    @property
    def head_dim(self) -> int:
        """Channels of one head (128)."""
        return self.dim // self.num_heads

    @property
    def rope_pairs(self) -> tuple[int, int, int]:
        """Complex pairs of a head that turn with time, height and width (22, 21, 21 of 64)."""
        pairs = self.head_dim // 2
        return pairs - 2 * (pairs // 3), pairs // 3, pairs // 3

    @property
    def audio_tokens(self) -> int:
        """Keys of one latent frame in the audio injection: the local tokens and the padding token."""
        return self.num_audio_token + 1

    @property
    def frames_per_block(self) -> int:
        """Pixel frames of one block (the first block of a stream gives three fewer)."""
        return self.num_frame_per_block * FRAMES_PER_LATENT


@dataclass(frozen=True)
class VAEConfig:
    """The Wan 2.1 video autoencoder (specification, section 11)."""

    base_dim: int
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    z_dim: int = 16
    # fmt: off
    latents_mean: tuple[float, ...] = (
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    )
    latents_std: tuple[float, ...] = (
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
    )
    # fmt: on


class Tokenizer(StrEnum):
    """Where a prompt's token ids come from."""

    UMT5 = "google/umt5-xxl"
    BYTES = "bytes"
    """The UTF-8 bytes themselves: needs no files, for small networks with drawn weights."""


@dataclass(frozen=True)
class TextEncoderConfig:
    """The UMT5 text encoder (specification, section 10)."""

    vocab_size: int
    dim: int
    dim_attn: int
    dim_ffn: int
    num_heads: int
    num_layers: int
    tokenizer: Tokenizer
    text_len: int = 512
    num_buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6


@dataclass(frozen=True)
class AudioEncoderConfig:
    """wav2vec2, of which the states of all layers are used (specification, section 9)."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    conv_dim: tuple[int, ...]
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    layer_norm_eps: float = 1e-5
    vocab_size: int = 33

    @property
    def num_states(self) -> int:
        """States handed on: the input of the first layer and the output of every layer."""
        return self.num_layers + 1


@dataclass(frozen=True)
class PipelineConfig:
    """One full set of networks that fit together."""

    name: str
    dit: DiTConfig
    vae: VAEConfig
    text: TextEncoderConfig
    audio: AudioEncoderConfig
    picture_sizes: tuple[tuple[int, int], ...] = ()
    """Width and height in pixels of the only pictures that its weights know; empty: any will do."""
    drawn_portraits_only: bool = False
    """Whether its weights know no other faces than those that `worker.training` draws."""

    def __post_init__(self) -> None:
        pairs = {
            "text width": (self.text.dim, self.dit.text_dim),
            "text length": (self.text.text_len, self.dit.text_len),
            "audio width": (self.audio.hidden_size, self.dit.audio_dim),
            "audio states": (self.audio.num_states, self.dit.audio_layers),
            "latent channels": (self.vae.z_dim, self.dit.in_dim),
        }
        unequal = [f"{what} {a} and {b}" for what, (a, b) in pairs.items() if a != b]
        if unequal:
            raise ValueError(f"preset {self.name!r}: the networks do not fit together: {', '.join(unequal)}")


_TINY = PipelineConfig(
    name="tiny",
    dit=DiTConfig(
        dim=32,
        ffn_dim=64,
        num_heads=2,  # so two DiT ranks at most; attention takes half of the time, and more heads more of it
        num_layers=2,
        text_dim=32,
        text_len=64,
        audio_dim=32,
        audio_layers=3,
        audio_inject_layers=(0,),
        freq_dim=64,
    ),
    vae=VAEConfig(base_dim=2, dim_mult=(1, 1, 2, 2), num_res_blocks=1),
    text=TextEncoderConfig(
        vocab_size=259,  # pad, end mark, unknown, then the 256 bytes
        dim=32,
        dim_attn=32,
        dim_ffn=64,
        num_heads=4,
        num_layers=2,
        tokenizer=Tokenizer.BYTES,
        text_len=64,
    ),
    audio=AudioEncoderConfig(
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        intermediate_size=64,
        conv_dim=(16, 16, 16, 16, 16, 16, 16),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    ),
)

_14B = PipelineConfig(
    name="14b",
    dit=DiTConfig(
        dim=5120,
        ffn_dim=13824,
        num_heads=40,
        num_layers=40,
        text_dim=4096,
        text_len=512,
        audio_dim=1024,
        audio_layers=25,
        audio_inject_layers=(0, 4, 8, 12, 16, 20, 24, 27, 30, 33, 36, 39),
    ),
    vae=VAEConfig(base_dim=96),
    text=TextEncoderConfig(
        vocab_size=256384,
        dim=4096,
        dim_attn=4096,
        dim_ffn=10240,
        num_heads=64,
        num_layers=24,
        tokenizer=Tokenizer.UMT5,
    ),
    audio=AudioEncoderConfig(
        hidden_size=1024,
        num_layers=24,
        num_heads=16,
        intermediate_size=4096,
        conv_dim=(512, 512, 512, 512, 512, 512, 512),
    ),
)

AVATAR = PipelineConfig(
    name="avatar",
    dit=DiTConfig(
        dim=256,
        ffn_dim=448,
        num_heads=4,
        num_layers=6,
        text_dim=32,
        text_len=64,
        audio_dim=128,
        audio_layers=4,
        audio_inject_layers=(0, 2, 4),
    ),
    vae=VAEConfig(base_dim=16, num_res_blocks=1),
    text=TextEncoderConfig(
        vocab_size=259,
        dim=32,
        dim_attn=32,
        dim_ffn=64,
        num_heads=4,
        num_layers=1,  # its weights are drawn: there is one prompt, of which the DiT makes what it likes
        tokenizer=Tokenizer.BYTES,
        text_len=64,
    ),
    audio=AudioEncoderConfig(
        hidden_size=128,
        num_layers=3,
        num_heads=4,
        intermediate_size=256,
        conv_dim=(64, 64, 64, 64, 64, 64, 128),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=8,
    ),
    picture_sizes=((192, 192), (144, 192)),
    drawn_portraits_only=True,
)
"""Small enough to come with the code and for a laptop's processor; trained by `worker.training` on faces it draws."""

PRESETS: Mapping[str, PipelineConfig] = MappingProxyType({"avatar": AVATAR, "tiny": _TINY, "14b": _14B})


def preset(name: str) -> PipelineConfig:
    """The sizes known under `name`. Raises `UnknownPreset`, which names the known ones."""
    try:
        return PRESETS[name]
    except KeyError:
        raise UnknownPreset(name, known=tuple(PRESETS)) from None


def check_size(config: PipelineConfig, *, width: int, height: int) -> None:
    """Raises `InvalidRender`, which names the sizes there are, for a picture that the weights do not know."""
    if config.picture_sizes and (width, height) not in config.picture_sizes:
        known = " or ".join(f"{one} x {other}" for one, other in config.picture_sizes)
        raise InvalidRender(
            f"the {config.name} preset draws {known} pixels, not {width} x {height}; without a size the picture decides"
        )
