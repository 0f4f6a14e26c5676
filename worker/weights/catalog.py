"""Where the weights of each preset come from: which published files are wanted (model specification, section 2), and
which come with the code.

Knows repositories and file names. `main` is only where a directory begins: the commit that a first pull finds there is
written into its manifest, and every later pull into that directory takes that commit. No commit and no hash is written
down here: where this was made no repository could be opened, and a number that nobody has checked would be worse than
none. A large file is compared with the hash that the hub states at that commit, all of them later with the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from worker.pipeline.published import REALVIDEO, S2V, T2V_DIFFUSERS, WAV2VEC2


@dataclass(frozen=True)
class Repository:
    """Files of one repository; `*` in a pattern stands for any part of a name."""

    name: str
    patterns: tuple[str, ...]
    revision: str | None = None
    """A branch, tag or commit; None: where the directory is at, `main` for one that is new."""


RELEASED = (
    Repository(REALVIDEO, ("model.pt",)),
    Repository(S2V, ("config.json", "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl/*", "Wan2.1_VAE.pth")),
    Repository(WAV2VEC2, ("config.json", "preprocessor_config.json", "model.safetensors")),
)
"""All that a render with the released network reads: about 45 GB with half-precision weights."""

FILES_OF_PRESETS: Mapping[str, tuple[Repository, ...]] = MappingProxyType({"14b": RELEASED})
"""The presets that need files which are not here."""

BUNDLED: Mapping[str, Path] = MappingProxyType({"avatar": Path(__file__).with_name("avatar.safetensors")})
"""The presets whose weights come with the code, whatever directory is named, and the file of each."""

DRAWN_PRESETS = frozenset({"tiny"})
"""Their weights are drawn from a seed. Any other preset without files would ship noise."""

S2V_BASE = (Repository(S2V, ("config.json", "diffusion_pytorch_model*.safetensors*")),)
"""The network that RealVideo was trained from."""

DIFFUSERS_FORM = (Repository(T2V_DIFFUSERS, ("vae/*", "text_encoder/*", "tokenizer/*")),)
"""VAE and text encoder under the names of diffusers and transformers, all in safetensors."""
