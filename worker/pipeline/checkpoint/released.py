"""The published weights in a directory on this machine.

Knows which file of which repository holds which network (model specification, section 2) and in what order of
preference. The directory has the repositories in it by their names, as `realvideo weights pull` makes it. Nothing is
ever downloaded here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch
from torch import nn

from worker.pipeline.checkpoint.errors import CheckpointNotFound
from worker.pipeline.checkpoint.fill import Place, fill_from, match_names, put, wanted_shapes
from worker.pipeline.checkpoint.names import Network, released_names
from worker.pipeline.checkpoint.readers import PickledTensors, SafetensorsFiles, TensorReader
from worker.pipeline.published import REALVIDEO, S2V, T2V, T2V_DIFFUSERS, WAV2VEC2

GENERATOR_ENTRY = "generator"
"""The only entry of RealVideo's `model.pt` that is read."""

INDEX_SUFFIX = ".safetensors.index.json"


class DiTRelease(StrEnum):
    """Which published DiT to load."""

    REALVIDEO = REALVIDEO
    """The few-step causal network that this pipeline is made for."""
    S2V_BASE = S2V
    """The network it was trained from: the same keys, but not made for few steps or for blocks."""


@dataclass(frozen=True)
class _File:
    path: str
    open: Callable[[Path], TensorReader]


class ReleasedWeights:
    """Weights of the published files under `directory`. Raises `CheckpointNotFound` when there is no such directory."""

    def __init__(self, directory: Path, *, dit: DiTRelease = DiTRelease.REALVIDEO) -> None:
        if not directory.is_dir():
            raise CheckpointNotFound("the directory of weights", places=[directory])
        self._directory = directory
        self._dit = dit

    def fill(
        self,
        module: nn.Module,
        network: Network,
        *,
        device: torch.device,
        dtype: torch.dtype,
        place: Place = put,
        on_host: Collection[str] = (),
    ) -> None:
        """As `WeightSource.fill`, from the first file there that holds the network. Raises `CheckpointError`."""
        reader = self.reader(network)
        name_of = released_names(network, wanted_shapes(module))
        fill_from(module, reader, name_of=name_of, device=device, dtype=dtype, place=place, on_host=on_host)

    def check(self, module: nn.Module, network: Network) -> None:
        """Compares keys and shapes of the files with those of a module; reads no numbers. Raises `CheckpointError`."""
        wanted = wanted_shapes(module)
        match_names(wanted, self.reader(network), name_of=released_names(network, wanted))

    def reader(self, network: Network) -> TensorReader:
        """The first file there that holds the network. Raises `CheckpointNotFound`, `CheckpointUnreadable`."""
        files = _files(network, dit=self._dit)
        for file in files:
            path = self._directory / file.path
            if path.is_file():
                return file.open(path)
        raise CheckpointNotFound(f"weights of the {network}", places=[self._directory / file.path for file in files])

    def tokenizer_directory(self) -> Path:
        """The folder of `google/umt5-xxl`, wherever the published files have it. Raises `CheckpointNotFound`."""
        folders = [
            self._directory / S2V / "google/umt5-xxl",
            self._directory / T2V / "google/umt5-xxl",
            self._directory / T2V_DIFFUSERS / "tokenizer",
        ]
        for folder in folders:
            if (folder / "tokenizer_config.json").is_file():
                return folder
        raise CheckpointNotFound("the tokenizer of the text encoder", places=folders)


def _files(network: Network, *, dit: DiTRelease) -> list[_File]:
    """Converted files first: they open faster and need no unpickling."""
    if network is Network.DIT and dit is DiTRelease.S2V_BASE:
        return _safetensors(f"{S2V}/diffusion_pytorch_model")
    if network is Network.DIT:
        return _pickle(f"{REALVIDEO}/model.pt", entry=GENERATOR_ENTRY)
    if network is Network.VAE:
        return [
            *_pickle(f"{S2V}/Wan2.1_VAE.pth"),
            *_pickle(f"{T2V}/Wan2.1_VAE.pth"),
            *_safetensors(f"{T2V_DIFFUSERS}/vae/diffusion_pytorch_model"),
        ]
    if network is Network.TEXT:
        return [
            *_pickle(f"{S2V}/models_t5_umt5-xxl-enc-bf16.pth"),
            *_pickle(f"{T2V}/models_t5_umt5-xxl-enc-bf16.pth"),
            *_safetensors(f"{T2V_DIFFUSERS}/text_encoder/model"),
        ]
    return [
        *_safetensors(f"{WAV2VEC2}/model"),
        *_pickle(f"{WAV2VEC2}/pytorch_model.bin"),
        *_safetensors(f"{S2V}/wav2vec2-large-xlsr-53-english/model"),
        *_pickle(f"{S2V}/wav2vec2-large-xlsr-53-english/pytorch_model.bin"),
    ]


def _pickle(path: str, *, entry: str | None = None) -> list[_File]:
    """The pickle, or before it what `realvideo weights convert` made of it."""
    stem = path.rpartition(".")[0]
    return [*_safetensors(stem), _File(path, lambda file: PickledTensors(file, entry=entry))]


def _safetensors(stem: str) -> list[_File]:
    return [
        _File(f"{stem}{INDEX_SUFFIX}", SafetensorsFiles.from_index),
        _File(f"{stem}.safetensors", lambda file: SafetensorsFiles([file], origin=str(file))),
    ]
