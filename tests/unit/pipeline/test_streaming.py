"""Numbers that several readers bring in: whole, in order, and nobody left reading."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from worker.pipeline.checkpoint import CheckpointUnreadable, streaming
from worker.pipeline.checkpoint.readers import SafetensorsFiles
from worker.pipeline.checkpoint.streaming import PIECE_BYTES, Stored, stream

CPU = torch.device("cpu")


def held() -> dict[str, torch.Tensor]:
    """One larger than two pieces of a reader, small ones of many types, and some of hardly any numbers."""
    generator = torch.Generator().manual_seed(1)
    return {
        "large": torch.randn(PIECE_BYTES // 2 + 12345, generator=generator),
        "bf16": torch.randn(33, 7, generator=generator).to(torch.bfloat16),
        "fp8": torch.randn(5, 3, generator=generator).to(torch.float8_e4m3fn),
        "count": torch.tensor(7),
        "flags": torch.tensor([True, False, True]),
        "none": torch.zeros(0, 4),
    }


def test_every_tensor_of_a_file_arrives_as_it_was_written(tmp_path: Path) -> None:
    save_file(held(), tmp_path / "some.safetensors", metadata={"format": "pt"})
    reader = SafetensorsFiles([tmp_path / "some.safetensors"], origin="some")
    arrived = dict(reader.read(held(), device=CPU))
    assert arrived.keys() == held().keys()
    for name, tensor in held().items():
        assert arrived[name].dtype == tensor.dtype
        assert torch.equal(as_bytes(arrived[name]), as_bytes(tensor))
        assert arrived[name].shape == tensor.shape


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def test_a_file_that_becomes_shorter_is_told_from_one_that_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    save_file(held(), path)
    reader = SafetensorsFiles([path], origin="some")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - PIECE_BYTES)
    with pytest.raises(CheckpointUnreadable, match="became shorter"):
        list(reader.read(["large"], device=CPU))


def test_readers_are_ahead_of_the_taker_but_not_by_the_whole_file(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead_bytes = 16_000
    monkeypatch.setattr(streaming, "AHEAD_BYTES", ahead_bytes)
    begun: list[int] = []

    def stored() -> Iterator[Stored]:
        for number in range(40):
            begun.append(number)
            yield Stored(str(number), (ahead_bytes // 16,), torch.uint8, lambda into, start: into.fill_(1).sum())

    arriving = stream(stored(), device=CPU)
    name, tensor = next(arriving)
    assert (name, int(tensor[-1])) == ("0", 1)
    assert 16 <= len(begun) <= 18
    assert [name for name, _ in arriving] == [str(number) for number in range(1, 40)]


def test_who_breaks_off_leaves_no_reader_behind() -> None:
    def fail(into: torch.Tensor, start: int) -> None:
        raise CheckpointUnreadable(Path("some"), "cannot be read")

    ones = [Stored(str(number), (1000,), torch.uint8, lambda into, start: None) for number in range(50)]
    with pytest.raises(CheckpointUnreadable):
        list(stream([*ones, Stored("bad", (1000,), torch.uint8, fail), *ones], device=CPU))
    left_early = stream(ones, device=CPU)
    next(left_early)
    left_early.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("weights")]
