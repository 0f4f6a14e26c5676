"""Files of the published layouts into the networks, and every way in which such a file can be wrong."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from safetensors.torch import save_file
from torch import nn

from tests.unit.pipeline import released_files as files
from worker.pipeline.checkpoint import (
    CheckpointMismatch,
    CheckpointNotFound,
    CheckpointUnreadable,
    DiTRelease,
    Network,
    RandomWeights,
    ReleasedWeights,
)
from worker.pipeline.checkpoint.fill import wanted_shapes
from worker.pipeline.checkpoint.names import text_encoder_name, vae_name
from worker.pipeline.config import PRESETS
from worker.pipeline.dit.dit import DiT
from worker.pipeline.text_encoder import TextEncoder
from worker.pipeline.vae import VideoAutoencoder

REALVIDEO = "zai-org/RealVideo"
S2V = "Wan-AI/Wan2.2-S2V-14B"
DIFFUSERS = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
WAV2VEC2 = "jonatasgrosman/wav2vec2-large-xlsr-53-english"


def realvideo(root: Path) -> None:
    held = {"generator": files.generator(), "step": 3, "critic": {"w": torch.zeros(2)}}
    files.save_pickle(held, root / REALVIDEO / "model.pt")


def base_shards(root: Path) -> None:
    files.save_shards(files.base_dit(), root / S2V, "diffusion_pytorch_model", count=4)


def vae_pickle(root: Path) -> None:
    files.save_pickle(files.native_vae(), root / S2V / "Wan2.1_VAE.pth")


def vae_pickle_of_the_small_video_model(root: Path) -> None:
    files.save_pickle(files.native_vae(), root / "Wan-AI/Wan2.1-T2V-1.3B/Wan2.1_VAE.pth")


def vae_of_diffusers(root: Path) -> None:
    folder = root / DIFFUSERS / "vae"
    folder.mkdir(parents=True)
    save_file(files.tensors(Network.VAE), folder / "diffusion_pytorch_model.safetensors")


def text_pickle(root: Path) -> None:
    files.save_pickle(files.native_text(), root / S2V / "models_t5_umt5-xxl-enc-bf16.pth")


def text_shards_of_transformers(root: Path) -> None:
    files.save_shards(files.hub_text(), root / DIFFUSERS / "text_encoder", "model", count=3)


def audio_of_the_hub(root: Path) -> None:
    folder = root / WAV2VEC2
    folder.mkdir(parents=True)
    save_file(files.ctc_audio(weight_norm=("weight_g", "weight_v")), folder / "model.safetensors")


def audio_pickle_of_new_pytorch(root: Path) -> None:
    spelling = ("parametrizations.weight.original0", "parametrizations.weight.original1")
    files.save_pickle(files.ctc_audio(weight_norm=spelling), root / WAV2VEC2 / "pytorch_model.bin")


def audio_beside_the_base_network(root: Path) -> None:
    folder = root / S2V / "wav2vec2-large-xlsr-53-english"
    folder.mkdir(parents=True)
    save_file(files.ctc_audio(weight_norm=("weight_g", "weight_v")), folder / "model.safetensors")


@pytest.mark.parametrize(
    ("which", "write"),
    [
        (Network.DIT, realvideo),
        (Network.VAE, vae_pickle),
        (Network.VAE, vae_pickle_of_the_small_video_model),
        (Network.VAE, vae_of_diffusers),
        (Network.TEXT, text_pickle),
        (Network.TEXT, text_shards_of_transformers),
        (Network.AUDIO, audio_of_the_hub),
        (Network.AUDIO, audio_pickle_of_new_pytorch),
        (Network.AUDIO, audio_beside_the_base_network),
    ],
)
def test_a_published_layout_fills_its_network_to_the_last_number(
    which: Network, write: Callable[[Path], None], tmp_path: Path
) -> None:
    write(tmp_path)
    assert_same(files.network(which, ReleasedWeights(tmp_path)), which)


def test_the_base_network_is_loaded_only_when_it_is_asked_for(tmp_path: Path) -> None:
    base_shards(tmp_path)
    with pytest.raises(CheckpointNotFound, match=r"RealVideo/model\.pt"):
        files.network(Network.DIT, ReleasedWeights(tmp_path))
    assert_same(files.network(Network.DIT, ReleasedWeights(tmp_path, dit=DiTRelease.S2V_BASE)), Network.DIT)


def test_weights_take_the_dtype_asked_for(tmp_path: Path) -> None:
    vae_pickle(tmp_path)
    half = files.network(Network.VAE, ReleasedWeights(tmp_path), dtype=torch.bfloat16)
    single = files.tensors(Network.VAE)
    for name, parameter in half.named_parameters():
        assert torch.equal(parameter, single[name].bfloat16())
        assert not parameter.requires_grad


@pytest.mark.parametrize("write", [vae_pickle, vae_of_diffusers])
def test_loaded_weights_outlive_their_file(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    module = files.network(Network.VAE, ReleasedWeights(tmp_path))
    for path in tmp_path.rglob("*"):
        if path.is_file():
            path.write_bytes(bytes(path.stat().st_size))
    assert_same(module, Network.VAE)


def test_every_key_that_does_not_fit_is_named_and_the_network_stays_untouched(tmp_path: Path) -> None:
    held = files.base_dit()
    del held["blocks.0.ffn.0.bias"], held["head.modulation"]
    held |= {"blocks.9.extra": torch.zeros(1), "cond_encoder.weight": torch.zeros(3)}
    held["blocks.1.self_attn.q.weight"] = torch.zeros(7, 2)
    files.save_pickle({"generator": {f"model.{k}": v for k, v in held.items()}}, tmp_path / REALVIDEO / "model.pt")
    with torch.device("meta"):
        module = DiT(files.DIT)
    with pytest.raises(CheckpointMismatch) as caught:
        ReleasedWeights(tmp_path).fill(module, Network.DIT, device=files.CPU, dtype=torch.float32)
    assert set(caught.value.missing) == {"blocks.0.ffn.0.bias", "head.modulation"}
    assert caught.value.unexpected == ("model.blocks.9.extra",)
    assert caught.value.misshapen == (("model.blocks.1.self_attn.q.weight", (files.DIT.dim,) * 2, (7, 2)),)
    for key in ("blocks.0.ffn.0.bias", "head.modulation", "model.blocks.9.extra", "q.weight is [7, 2] instead of"):
        assert key in str(caught.value)
    assert all(parameter.is_meta for parameter in module.parameters())


@pytest.mark.parametrize("change", ["extra", "absent", "shape"])
def test_one_key_that_does_not_fit_is_enough(change: str, tmp_path: Path) -> None:
    held = files.native_vae()
    if change == "extra":
        held["decoder.middle.3.residual.0.gamma"] = torch.ones(1)
    elif change == "absent":
        del held["conv2.bias"]
    else:
        held["conv2.bias"] = held["conv2.bias"][None]
    files.save_pickle(held, tmp_path / S2V / "Wan2.1_VAE.pth")
    with pytest.raises(CheckpointMismatch):
        files.network(Network.VAE, ReleasedWeights(tmp_path))


def test_files_can_be_compared_with_a_network_without_reading_them(tmp_path: Path) -> None:
    vae_pickle(tmp_path)
    with torch.device("meta"):
        fitting, other = (AutoencoderKLWan(base_dim=dim) for dim in (4, 6))
    ReleasedWeights(tmp_path).check(fitting, Network.VAE)
    with pytest.raises(CheckpointMismatch, match="misshapen"):
        ReleasedWeights(tmp_path).check(other, Network.VAE)
    assert all(parameter.is_meta for parameter in fitting.parameters())


class _Stranger:
    """Something that unpickling would have to run code for."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path, ("/",))


def test_a_pickle_that_holds_code_is_not_run(tmp_path: Path) -> None:
    files.save_pickle({"generator": files.generator(), "x": _Stranger()}, tmp_path / REALVIDEO / "model.pt")
    with pytest.raises(CheckpointUnreadable, match="more than tensors"):
        files.network(Network.DIT, ReleasedWeights(tmp_path))


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"critic": {}}, "no entry 'generator'"),
        ([1, 2], "no entry 'generator'"),
        ({"generator": {"model.head.modulation": 3}}, "not a dict of tensors"),
    ],
)
def test_a_pickle_of_another_make_is_refused(held: object, said: str, tmp_path: Path) -> None:
    files.save_pickle(held, tmp_path / REALVIDEO / "model.pt")
    with pytest.raises(CheckpointUnreadable, match=said):
        files.network(Network.DIT, ReleasedWeights(tmp_path))


@pytest.mark.parametrize("content", [b"", b"no zip at all", pickle.dumps({"generator": 1})])
def test_a_file_that_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / REALVIDEO).mkdir(parents=True)
    (tmp_path / REALVIDEO / "model.pt").write_bytes(content)
    with pytest.raises(CheckpointUnreadable, match=r"model\.pt"):
        files.network(Network.DIT, ReleasedWeights(tmp_path))


def test_a_download_cut_short_is_refused(tmp_path: Path) -> None:
    realvideo(tmp_path)
    audio_of_the_hub(tmp_path)
    for path, which in ((REALVIDEO + "/model.pt", Network.DIT), (WAV2VEC2 + "/model.safetensors", Network.AUDIO)):
        whole = (tmp_path / path).read_bytes()
        (tmp_path / path).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointUnreadable, match=re.escape(path)):
            files.network(which, ReleasedWeights(tmp_path))


def test_an_absent_shard_is_named(tmp_path: Path) -> None:
    text_shards_of_transformers(tmp_path)
    (tmp_path / DIFFUSERS / "text_encoder" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointNotFound, match=r"model-00002-of-00003\.safetensors"):
        files.network(Network.TEXT, ReleasedWeights(tmp_path))


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": {"a": "../elsewhere.safetensors"}}'])
def test_an_index_that_makes_no_sense_is_refused(index: str, tmp_path: Path) -> None:
    text_shards_of_transformers(tmp_path)
    (tmp_path / DIFFUSERS / "text_encoder" / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointUnreadable, match="index"):
        files.network(Network.TEXT, ReleasedWeights(tmp_path))


def test_an_index_that_its_shards_contradict_is_refused(tmp_path: Path) -> None:
    text_shards_of_transformers(tmp_path)
    path = tmp_path / DIFFUSERS / "text_encoder" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["shared.weight"]
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointUnreadable, match=r"first about shared\.weight"):
        files.network(Network.TEXT, ReleasedWeights(tmp_path))


def test_a_directory_without_weights_tells_every_place_that_was_tried(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound) as caught:
        files.network(Network.VAE, ReleasedWeights(tmp_path))
    assert tmp_path / S2V / "Wan2.1_VAE.pth" in caught.value.places
    assert tmp_path / DIFFUSERS / "vae" / "diffusion_pytorch_model.safetensors" in caught.value.places
    with pytest.raises(CheckpointNotFound, match="directory of weights"):
        ReleasedWeights(tmp_path / "nowhere")


def test_names_of_the_native_files_are_those_of_the_reference() -> None:
    vae = json.loads((files.GOLDEN / "vae.json").read_text())["diffusers"]["key_mapping"]
    assert len(vae) == 194
    assert {key: vae_name(key, resnets_per_level=3) for key in vae} == vae
    assert {name: vae_name(name, resnets_per_level=3) for name in vae.values()} == {n: n for n in vae.values()}
    text = json.loads((files.GOLDEN / "t5.json").read_text())["umt5"]["key_mapping"]
    assert {key: text_encoder_name(key) for key in text} == {key: names[0] for key, names in text.items()}


class _Counts:
    """A source that tells how many tensors a network asks for."""

    def __init__(self) -> None:
        self.asked: dict[Network, int] = {}

    def fill(self, module: nn.Module, network: Network, **_: object) -> None:
        self.asked[network] = len(wanted_shapes(module))

    def tokenizer_directory(self) -> None:
        return None


def test_networks_of_the_released_sizes_ask_for_as_many_tensors_as_the_files_have() -> None:
    sizes, counts = PRESETS["14b"], _Counts()
    TextEncoder(sizes.text, device=files.CPU, dtype=torch.bfloat16, weights=counts)
    VideoAutoencoder(sizes.vae, device=files.CPU, dtype=torch.bfloat16, weights=counts)
    assert counts.asked == {Network.TEXT: 242, Network.VAE: 194}


def assert_same(module: nn.Module, which: Network) -> None:
    wanted = files.tensors(which)
    made = dict(module.named_parameters())
    assert made.keys() == wanted.keys()
    for name, parameter in made.items():
        assert torch.equal(parameter, wanted[name]), name


def test_the_writers_of_these_tests_do_not_draw_what_they_are_compared_with() -> None:
    other = dict(files.network(Network.VAE, RandomWeights(8)).named_parameters())
    assert not torch.equal(other["decoder.conv_in.weight"], files.tensors(Network.VAE)["decoder.conv_in.weight"])
