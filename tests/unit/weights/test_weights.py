"""Fetching, checking and converting weights, against a hub on loopback."""

import json
import shutil
import socket
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.unit.pipeline import released_files as files
from tests.unit.weights.hub_server import HubServer, hub_server
from worker.pipeline.checkpoint import Network, ReleasedWeights
from worker.weights import convert as convert_module
from worker.weights.catalog import Repository
from worker.weights.convert import convert
from worker.weights.errors import (
    DamagedFile,
    DirectoryBusy,
    DiskTooSmall,
    DownloadInterrupted,
    FilesNotOffered,
    HubRefused,
    ManifestMissing,
    ManifestUnreadable,
    RevisionPinned,
)
from worker.weights.hub import Hub
from worker.weights.manifest import Manifest, locked
from worker.weights.progress import FileProgress, Step
from worker.weights.pull import PullPlan, pull
from worker.weights.verify import Damage, DamagedWeights, verify

NAME = "zai-org/RealVideo"
FIRST, SECOND = "a" * 40, "b" * 40
BIG = bytes(range(256)) * 4000
FILES = {"model.pt": BIG, "config.json": b"{}", "folder/vocabulary.txt": b"lips", "README.md": b"not wanted"}
WANTED = (Repository(NAME, ("model.pt", "config.json", "folder/*")),)


@pytest.fixture
def server() -> Iterator[HubServer]:
    with hub_server() as server:
        server.publish(NAME, FIRST, FILES)
        yield server


@pytest.fixture
def hub(server: HubServer) -> Hub:
    return Hub(endpoint=server.url, token="hf_test", pause_s=0.001)


def test_a_pull_fetches_what_is_wanted_and_records_it(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    seen: list[FileProgress] = []
    manifest = pull(tmp_path, repositories=WANTED, hub=hub, on_progress=seen.append)
    assert (tmp_path / NAME / "model.pt").read_bytes() == BIG
    assert (tmp_path / NAME / "folder/vocabulary.txt").read_bytes() == b"lips"
    assert not (tmp_path / NAME / "README.md").exists()
    assert manifest == Manifest.read(tmp_path)
    assert manifest.revisions == {NAME: FIRST}
    assert set(manifest.files) == {f"{NAME}/{name}" for name in FILES if name != "README.md"}
    assert server.tokens == ["Bearer hf_test"]
    assert seen[-1].total == len(b"lips")
    assert FileProgress(Step.DOWNLOAD, f"{NAME}/model.pt", len(BIG), len(BIG)) in seen


def test_a_second_pull_fetches_nothing(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    pull(tmp_path, repositories=WANTED, hub=hub)
    server.ranges.clear()
    pull(tmp_path, repositories=WANTED, hub=hub)
    assert server.ranges == []


def test_a_pull_stays_at_the_commit_it_began_with(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    pull(tmp_path, repositories=WANTED, hub=hub)
    server.publish(NAME, SECOND, FILES | {"model.pt": BIG[::-1]})
    (tmp_path / NAME / "model.pt").unlink()
    assert pull(tmp_path, repositories=WANTED, hub=hub).revisions == {NAME: FIRST}
    assert (tmp_path / NAME / "model.pt").read_bytes() == BIG


def test_a_new_directory_begins_at_the_commit_asked_for_and_an_old_one_stays(
    server: HubServer, hub: Hub, tmp_path: Path
) -> None:
    server.publish(NAME, SECOND, FILES | {"model.pt": BIG[::-1]})
    at_first = (replace(WANTED[0], revision=FIRST),)
    assert pull(tmp_path, repositories=at_first, hub=hub).revisions == {NAME: FIRST}
    assert pull(tmp_path, repositories=at_first, hub=hub).revisions == {NAME: FIRST}
    with pytest.raises(RevisionPinned, match="a directory of its own"):
        pull(tmp_path, repositories=(replace(WANTED[0], revision=SECOND),), hub=hub)


def test_what_is_about_to_be_fetched_is_told_first(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    plans: list[PullPlan] = []
    pull(tmp_path, repositories=WANTED, hub=hub, on_plan=plans.append)
    pull(tmp_path, repositories=WANTED, hub=hub, on_plan=plans.append)
    assert [(plan.revisions, plan.files, plan.size) for plan in plans] == [
        ({NAME: FIRST}, 3, len(BIG) + len(b"{}") + len(b"lips")),
        ({NAME: FIRST}, 0, 0),
    ]
    assert plans[0].free > 0


def test_a_hub_that_cannot_be_reached_is_told_apart(tmp_path: Path) -> None:
    with socket.socket() as listener:  # bound, but nobody listens
        listener.bind(("127.0.0.1", 0))
        hub = Hub(endpoint=f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(DownloadInterrupted, match="does not answer about zai-org/RealVideo"):
            pull(tmp_path, repositories=WANTED, hub=hub)


def test_a_directory_of_which_nothing_is_known_is_not_called_sound(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(BIG)
    with pytest.raises(ManifestMissing):
        verify(tmp_path)


def test_a_download_goes_on_after_every_break(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    server.break_after = 300_000
    pull(tmp_path, repositories=WANTED, hub=hub)
    assert (tmp_path / NAME / "model.pt").read_bytes() == BIG
    assert [r for r in server.ranges if r] == ["bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_a_pull_given_up_goes_on_at_the_next_one(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    server.break_after = 300_000
    written: list[int] = []

    def break_for_good(progress: FileProgress) -> None:
        written.append(progress.done)
        if progress.file.endswith("model.pt"):
            server.break_after = 0

    with pytest.raises(DownloadInterrupted, match=f"stopped at 300000 of {len(BIG)} bytes"):
        pull(tmp_path, repositories=WANTED, hub=hub, on_progress=break_for_good)
    assert not (tmp_path / NAME / "model.pt").exists()
    server.break_after = None
    server.ranges.clear()
    pull(tmp_path, repositories=WANTED, hub=hub)
    assert (tmp_path / NAME / "model.pt").read_bytes() == BIG
    assert server.ranges[0] == "bytes=300000-"


def test_what_is_left_of_another_commit_is_not_gone_on_with(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    stale = tmp_path / NAME / f"model.pt.{SECOND[:12]}.part"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"x" * 1000)
    pull(tmp_path, repositories=WANTED, hub=hub)
    assert (tmp_path / NAME / "model.pt").read_bytes() == BIG
    assert not stale.exists()


def test_a_file_put_there_by_hand_is_taken_over_if_it_is_the_right_one(
    server: HubServer, hub: Hub, tmp_path: Path
) -> None:
    (tmp_path / NAME).mkdir(parents=True)
    (tmp_path / NAME / "model.pt").write_bytes(BIG)
    pull(tmp_path, repositories=WANTED, hub=hub)
    assert len(server.ranges) == 2
    assert verify(tmp_path) == ()


def test_a_file_with_another_hash_than_stated_is_removed(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    server.serve_instead["model.pt"] = BIG[::-1]
    with pytest.raises(DamagedFile, match="was removed"):
        pull(tmp_path, repositories=WANTED, hub=hub)
    assert not (tmp_path / NAME / "model.pt").exists()
    assert f"{NAME}/model.pt" not in Manifest.read(tmp_path).files


def test_a_file_longer_than_stated_is_refused(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    server.serve_instead["model.pt"] = BIG + b"more"
    with pytest.raises(HubRefused, match="longer"):
        pull(tmp_path, repositories=WANTED, hub=hub)


@pytest.mark.parametrize(("status", "error"), [(401, HubRefused), (404, HubRefused), (503, DownloadInterrupted)])
def test_a_hub_that_gives_nothing_is_told_apart(
    server: HubServer, hub: Hub, tmp_path: Path, status: int, error: type[Exception]
) -> None:
    server.refuse = status
    with pytest.raises(error, match=str(status)):
        pull(tmp_path, repositories=WANTED, hub=hub)


def test_a_repository_that_is_not_there_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(HubRefused, match="nobody/nothing at main"):
        pull(tmp_path, repositories=(Repository("nobody/nothing", ("*",)),), hub=hub)


def test_a_wanted_file_that_is_no_longer_offered_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(FilesNotOffered, match=r"model\.safetensors"):
        pull(tmp_path, repositories=(Repository(NAME, ("model.safetensors",)),), hub=hub)


def test_a_repository_cannot_write_outside_its_folder(server: HubServer, hub: Hub, tmp_path: Path) -> None:
    server.publish(NAME, SECOND, {"../../escaped": b"x"})
    with pytest.raises(FilesNotOffered, match="outside"):
        pull(tmp_path / "weights", repositories=(Repository(NAME, ("*",)),), hub=hub)
    assert not (tmp_path / "escaped").exists()


def test_a_disk_too_small_is_told_before_anything_is_fetched(
    server: HubServer, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 500 * 2**20))
    with pytest.raises(DiskTooSmall, match=r"0\.5 GB are free"):
        pull(tmp_path, repositories=WANTED, hub=hub)
    assert server.ranges == []


def test_two_pulls_into_one_directory_do_not_mix(hub: Hub, tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(DirectoryBusy):
        pull(tmp_path, repositories=WANTED, hub=hub)
    pull(tmp_path, repositories=WANTED, hub=hub)


def test_verify_names_every_kind_of_damage(hub: Hub, tmp_path: Path) -> None:
    pull(tmp_path, repositories=WANTED, hub=hub)
    folder = tmp_path / NAME
    assert verify(tmp_path) == ()
    (folder / "config.json").unlink()
    (folder / "model.pt").write_bytes(BIG[:-1] + b"!")
    (folder / "folder/vocabulary.txt").write_bytes(b"lip")
    assert set(verify(tmp_path)) == {
        DamagedWeights(f"{NAME}/config.json", Damage.MISSING),
        DamagedWeights(f"{NAME}/model.pt", Damage.CONTENT),
        DamagedWeights(f"{NAME}/folder/vocabulary.txt", Damage.SIZE),
    }


@pytest.mark.parametrize("content", ["{", "[]", '{"files": {"a": {"bytes": 1}}, "revisions": {}}'])
def test_a_manifest_of_another_make_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ManifestUnreadable):
        verify(tmp_path)


@pytest.fixture
def pickles(tmp_path: Path) -> Path:
    held = {"generator": files.generator(), "step": 1}
    files.save_pickle(held, tmp_path / NAME / "model.pt")
    files.save_pickle(files.native_vae(), tmp_path / "Wan-AI/Wan2.2-S2V-14B/Wan2.1_VAE.pth")
    return tmp_path


def test_pickles_are_converted_once_and_then_no_longer_opened(pickles: Path) -> None:
    seen: list[FileProgress] = []
    made = convert(pickles, shard_bytes=40_000, on_progress=seen.append)
    assert [index.name for index in made] == ["model.safetensors.index.json", "Wan2.1_VAE.safetensors.index.json"]
    assert len(list((pickles / NAME).glob("*.safetensors"))) > 2
    assert [p for p in seen if p.step is Step.CONVERT][-1].done == [p for p in seen if p.step is Step.CONVERT][-1].total
    assert verify(pickles) == ()
    assert convert(pickles) == ()
    for pickle in (*pickles.rglob("*.pt"), *pickles.rglob("*.pth")):
        pickle.unlink()
    for which in (Network.DIT, Network.VAE):
        wanted = files.tensors(which)
        for name, parameter in files.network(which, ReleasedWeights(pickles)).named_parameters():
            assert torch.equal(parameter, wanted[name])


def test_shards_hold_at_most_their_size_unless_one_tensor_is_larger(pickles: Path) -> None:
    convert(pickles, shard_bytes=40_000)
    largest = max(t.nbytes for t in files.generator().values())
    for shard in (pickles / NAME).glob("*.safetensors"):
        assert shard.stat().st_size < max(40_000, largest) + 20_000


def test_a_conversion_broken_off_leaves_the_pickle_in_charge(pickles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = 0

    def save_two(*args: object, **kwargs: object) -> None:
        nonlocal saved
        saved += 1
        if saved > 2:
            raise OSError("disk full")
        original(*args, **kwargs)  # type: ignore[arg-type]

    original = convert_module.save_file
    monkeypatch.setattr(convert_module, "save_file", save_two)
    with pytest.raises(OSError, match="disk full"):
        convert(pickles, shard_bytes=40_000)
    files.network(Network.DIT, ReleasedWeights(pickles))
    assert "[generator]" in ReleasedWeights(pickles).reader(Network.DIT).origin
    monkeypatch.setattr(convert_module, "save_file", original)
    assert len(convert(pickles, shard_bytes=40_000)) == 2


def test_a_converted_file_tells_what_it_was_made_from(pickles: Path) -> None:
    convert(pickles)
    record = Manifest.read(pickles).files[f"{NAME}/model.safetensors.index.json"]
    assert record.made_from is not None
    index = json.loads((pickles / NAME / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(files.generator())


def test_a_file_too_large_for_plain_downloads_goes_another_way(server: HubServer, tmp_path: Path) -> None:
    hub = Hub(endpoint=server.url, largest_http_bytes=len(BIG) - 1)
    with pytest.raises(DownloadInterrupted, match=r"model\.pt"):
        # the server here does not speak the hub's own protocol
        pull(tmp_path, repositories=WANTED, hub=hub)
    assert server.ranges == []
