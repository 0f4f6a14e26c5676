"""Tensors of a network that stay on the host while the others go to a GPU.

There is no GPU here: a test that names one sees to where the readers were to bring each tensor, and brings it to the
host. Tensors without numbers (PyTorch's fake and meta ones) show which devices meet in an operation.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.unit.pipeline import released_files as files
from worker.pipeline.checkpoint import GivenWeights, Network, RandomWeights, ReleasedWeights, WeightSource, drawn, put
from worker.pipeline.checkpoint import readers as file_readers
from worker.pipeline.checkpoint.bundled import BundledWeights, write_bundle
from worker.pipeline.checkpoint.streaming import Stored, stream
from worker.pipeline.published import S2V, T2V_DIFFUSERS
from worker.pipeline.text_encoder import WORDS, TextEncoder

GPU = torch.device("cuda", 1)
META = torch.device("meta")


def pickle(root: Path, dtype: torch.dtype) -> WeightSource:
    held = {name: tensor.to(dtype) for name, tensor in files.native_text().items()}
    files.save_pickle(held, root / S2V / "models_t5_umt5-xxl-enc-bf16.pth")
    return ReleasedWeights(root)


def converted_pickle(root: Path, dtype: torch.dtype) -> WeightSource:
    held = {name: tensor.to(dtype) for name, tensor in files.native_text().items()}
    files.save_shards(held, root / S2V, "models_t5_umt5-xxl-enc-bf16", count=2)
    return ReleasedWeights(root)


def shards(root: Path, dtype: torch.dtype) -> WeightSource:
    held = {name: tensor.to(dtype) for name, tensor in files.hub_text().items()}
    files.save_shards(held, root / T2V_DIFFUSERS / "text_encoder", "model", count=3)
    return ReleasedWeights(root)


def bundle(root: Path, dtype: torch.dtype) -> WeightSource:
    write_bundle(root / "all.safetensors", {Network.TEXT: files.tensors(Network.TEXT)}, dtype=dtype)
    return BundledWeights(root / "all.safetensors")


every_layout = pytest.mark.parametrize("write", [pickle, converted_pickle, shards, bundle])
Write = Callable[[Path, torch.dtype], WeightSource]


def empty_network() -> nn.Module:
    asked: list[nn.Module] = []

    class Asked:
        def fill(self, module: nn.Module, network: Network, **_: object) -> None:
            asked.append(module)

        def tokenizer_directory(self) -> None:
            return None

    TextEncoder(files.TEXT, device=files.CPU, dtype=torch.float32, weights=Asked())
    return asked[0]


@every_layout
def test_only_what_was_named_stays_and_is_a_view_of_its_file(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[int, torch.device] = {}

    def noting(wanted: Iterable[Stored], *, device: torch.device) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in stream(wanted, device=files.CPU):
            sent[tensor.data_ptr()] = device
            yield name, tensor

    monkeypatch.setattr(file_readers, "stream", noting)
    module = empty_network()
    write(tmp_path, torch.float32).fill(module, Network.TEXT, device=GPU, dtype=torch.float32, on_host={WORDS})
    wanted = files.tensors(Network.TEXT)
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter, wanted[name]), name
        assert sent.get(parameter.data_ptr()) == (None if name == WORDS else GPU), name
        assert is_view_of_a_file(parameter, tmp_path) == (name == WORDS), name


@every_layout
def test_nothing_stays_that_was_not_named(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    def noting(wanted: Iterable[Stored], *, device: torch.device) -> Iterator[tuple[str, Tensor]]:
        for one in stream(wanted, device=files.CPU):
            asked.append(device)
            yield one

    monkeypatch.setattr(file_readers, "stream", noting)
    module = empty_network()
    write(tmp_path, torch.float32).fill(module, Network.TEXT, device=GPU, dtype=torch.float32)
    assert asked == [GPU] * len(files.tensors(Network.TEXT))


def is_view_of_a_file(tensor: Tensor, root: Path) -> bool:
    """By the kernel's account of what lies where."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, _, last = line.split()[0].partition("-")
        if int(first, 16) <= tensor.data_ptr() < int(last, 16):
            return str(root) in line
    raise AssertionError("a tensor lies nowhere")


@every_layout
@pytest.mark.parametrize(
    ("in_file", "in_network"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)], ids=str
)
def test_a_file_of_another_type_gives_the_numbers_that_it_gives_anywhere(
    write: Write, in_file: torch.dtype, in_network: torch.dtype, tmp_path: Path
) -> None:
    made = TextEncoder(files.TEXT, device=files.CPU, dtype=in_network, weights=write(tmp_path, in_file))
    held = {name: tensor.to(in_file).to(in_network) for name, tensor in files.tensors(Network.TEXT).items()}
    for name, parameter in made._network.named_parameters():
        assert parameter.dtype == in_network
        assert torch.equal(parameter, held[name]), name
    given = TextEncoder(files.TEXT, device=files.CPU, dtype=in_network, weights=GivenWeights({Network.TEXT: held}))
    assert torch.equal(made.encode_ids([3, 39, 1]).rows, given.encode_ids([3, 39, 1]).rows)


def test_given_tensors_stay_or_go_as_those_of_a_file() -> None:
    placed: dict[str, torch.device] = {}

    def noting(module: nn.Module, name: str, tensor: Tensor) -> None:
        placed[name] = tensor.device
        put(module, name, torch.empty_like(tensor, device="cpu"))

    given = GivenWeights({Network.TEXT: files.native_text()})
    given.fill(empty_network(), Network.TEXT, device=META, dtype=torch.float32, place=noting, on_host={WORDS})
    assert placed == {name: files.CPU if name == WORDS else META for name in files.tensors(Network.TEXT)}


class _WordsOnly:
    """Gives numbers to what stays on the host and leaves the rest on the meta device, in place of a GPU."""

    def fill(
        self,
        module: nn.Module,
        network: Network,
        *,
        device: torch.device,
        dtype: torch.dtype,
        on_host: Collection[str] = (),
        **_: object,
    ) -> None:
        for name in on_host:
            put(module, name, files.tensors(network)[name].to(dtype))
        for parameter in module.parameters():
            parameter.data = parameter.data.to(dtype)

    def tokenizer_directory(self) -> None:
        return None


def test_words_are_looked_up_on_the_host_and_encoded_where_the_blocks_are() -> None:
    encoder = TextEncoder(files.TEXT, device=META, dtype=torch.bfloat16, weights=_WordsOnly())
    on_host = [name for name, parameter in encoder._network.named_parameters() if parameter.device == files.CPU]
    assert on_host == [WORDS]
    looked_up_at: list[torch.device] = []
    words = encoder._network.get_submodule("shared")
    words.register_forward_pre_hook(lambda _, given: looked_up_at.append(given[0].device))
    rows, length = encoder.encode_ids([3, 39, 1])
    assert looked_up_at == [files.CPU]
    assert (rows.device, rows.dtype, rows.shape, length) == (META, torch.bfloat16, (8, 16), 3)


class _LargestOnGpu(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.device == GPU:
            self.numel = max(self.numel, made.numel())
        return made


def test_a_table_for_the_host_is_drawn_on_the_gpu_in_pieces_that_leave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn, "_PER_DRAW", 64)
    module = nn.Embedding(100, 64, device="meta")
    with FakeTensorMode(), _LargestOnGpu() as largest:
        RandomWeights(0).fill(module, Network.TEXT, device=GPU, dtype=torch.bfloat16, on_host={"weight"})
    assert (module.weight.device, module.weight.dtype) == (files.CPU, torch.bfloat16)
    assert largest.numel == 64


def test_drawn_numbers_are_the_same_on_the_host_and_elsewhere() -> None:
    here, there = empty_network(), empty_network()
    RandomWeights(7).fill(here, Network.TEXT, device=files.CPU, dtype=torch.bfloat16, on_host={WORDS})
    RandomWeights(7).fill(there, Network.TEXT, device=files.CPU, dtype=torch.bfloat16)
    for name, parameter in here.named_parameters():
        assert torch.equal(parameter, there.get_parameter(name)), name
