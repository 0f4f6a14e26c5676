"""Large weights are told apart without being read, and those that come with the code by what they are."""

import os
from pathlib import Path

import pytest

from worker.weights.identity import DRAWN, weights_identity
from worker.weights.manifest import FileRecord, Manifest


def test_drawn_weights_are_called_so() -> None:
    assert weights_identity("tiny", None) == DRAWN


def test_pulled_weights_are_the_same_on_every_machine_and_others_are_not(tmp_path: Path) -> None:
    identities = []
    for name, sha256 in (("one", "aa"), ("copy", "aa"), ("other", "bb")):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "dit.safetensors").write_bytes(b"12345")
        Manifest(files={"dit.safetensors": FileRecord(size=5, sha256=sha256)}).write(directory)
        identities.append(weights_identity("14b", directory))
    one, copy, other = identities
    assert one == copy != other


@pytest.mark.parametrize("manifest", [None, "not JSON"])
def test_weights_without_a_manifest_are_told_apart_by_their_files(tmp_path: Path, manifest: str | None) -> None:
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    file = tmp_path / "dit.safetensors"
    file.write_bytes(b"12345")
    before = weights_identity("14b", tmp_path)
    assert weights_identity("14b", tmp_path) == before
    os.utime(file, (1, 1))
    written_again = weights_identity("14b", tmp_path)
    file.write_bytes(b"123456")
    os.utime(file, (1, 1))
    assert len({before, written_again, weights_identity("14b", tmp_path)}) == 3


def test_a_bundle_is_known_by_its_content_wherever_it_lies_and_whatever_directory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identities = []
    for name, content in (("one", b"12345"), ("copy", b"12345"), ("other", b"12346")):
        (tmp_path / name).write_bytes(content)
        monkeypatch.setattr("worker.weights.identity.BUNDLED", {"avatar": tmp_path / name})
        identities += [weights_identity("avatar", None), weights_identity("avatar", tmp_path)]
    one, one_beside, copy, _, other, _ = identities
    assert one == one_beside == copy != other
