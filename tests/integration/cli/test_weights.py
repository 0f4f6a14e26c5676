"""`realvideo weights` as a process, against a hub on loopback that breaks, lies, and is away."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
import torch

from cli.errors import ExitCode
from tests.unit.pipeline import released_files as files
from tests.unit.weights.hub_server import HubServer, hub_server
from tests.waiting import wait_for
from worker.pipeline.checkpoint import Network, ReleasedWeights
from worker.pipeline.published import REALVIDEO, S2V, WAV2VEC2

COMMIT = "c" * 40
PICKLE = "model.pt"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """The three repositories of the 14b preset, small."""
    with hub_server() as server:
        server.publish(REALVIDEO, COMMIT, {PICKLE: pickled({"generator": files.generator()})})
        server.publish(
            S2V,
            COMMIT,
            {
                "config.json": b"{}",
                "models_t5_umt5-xxl-enc-bf16.pth": pickled({"a": torch.ones(40)}),
                "google/umt5-xxl/tokenizer_config.json": b"{}",
                "Wan2.1_VAE.pth": pickled(files.native_vae()),
            },
        )
        server.publish(
            WAV2VEC2, COMMIT, {"config.json": b"{}", "preprocessor_config.json": b"{}", "model.safetensors": b"x" * 200}
        )
        yield server


def test_weights_are_pulled_converted_and_verified(hub: HubServer, tmp_path: Path) -> None:
    pulled = realvideo(hub, tmp_path, "pull")
    assert pulled.returncode == ExitCode.OK, pulled.stderr
    for said in (f"{REALVIDEO} at {COMMIT}", f"{S2V} at {COMMIT}", "8 files to fetch: 0.0 GB;", "GB are free"):
        assert said in pulled.stderr
    converted = realvideo(hub, tmp_path, "convert")
    assert converted.returncode == ExitCode.OK, converted.stderr
    assert len(converted.stdout.splitlines()) == 3
    files.network(Network.DIT, ReleasedWeights(tmp_path))
    verified = realvideo(hub, tmp_path, "verify")
    assert verified.returncode == ExitCode.OK, verified.stderr
    assert verified.stdout.startswith("All 14 files")
    (tmp_path / S2V / "config.json").write_bytes(b"[]")
    damaged = realvideo(hub, tmp_path, "verify")
    assert damaged.returncode == ExitCode.FAILED
    assert f"{S2V}/config.json: other content" in damaged.stderr


def test_a_pull_that_is_killed_goes_on_where_it_was(hub: HubServer, tmp_path: Path) -> None:
    whole = len(hub.files[REALVIDEO, COMMIT][PICKLE])
    hub.break_after = whole // 2
    hub.pause_after_break = True  # what follows never comes, so the command is caught in the middle
    process = start(hub, tmp_path, "pull")
    partial = tmp_path / REALVIDEO / f"{PICKLE}.{COMMIT[:12]}.part"
    wait_for(lambda: partial.exists() and partial.stat().st_size == whole // 2, timeout_s=60)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hub.break_after, hub.pause_after_break = None, False
    hub.ranges.clear()
    assert realvideo(hub, tmp_path, "pull").returncode == ExitCode.OK
    assert hub.ranges[0] == f"bytes={whole // 2}-"
    assert (tmp_path / REALVIDEO / PICKLE).read_bytes() == hub.files[REALVIDEO, COMMIT][PICKLE]


def test_what_goes_wrong_is_a_sentence_with_its_own_exit_code(hub: HubServer, tmp_path: Path) -> None:
    hub.serve_instead[PICKLE] = b"y" * len(hub.files[REALVIDEO, COMMIT][PICKLE])
    expect(realvideo(hub, tmp_path, "pull"), ExitCode.FAILED, "its publisher states")
    hub.serve_instead.clear()
    hub.stated_sizes[PICKLE] = 10**16
    expect(realvideo(hub, tmp_path, "pull"), ExitCode.FAILED, "GB are free; nothing was written")
    hub.stated_sizes.clear()
    expect(realvideo(hub, tmp_path, "pull", file_limit=10_000), ExitCode.FAILED, "File too large")
    hub.refuse = 401
    expect(realvideo(hub, tmp_path, "pull"), ExitCode.REFUSED, "status 401")
    hub.url = "http://127.0.0.1:9"
    expect(realvideo(hub, tmp_path, "pull"), ExitCode.UNREACHABLE, "the hub does not answer")
    expect(realvideo(hub, tmp_path / "nothing", "verify"), ExitCode.USAGE, "there is no directory")
    expect(realvideo(hub, tmp_path, "pull", "--preset", "tiny"), ExitCode.USAGE, "no files are published")
    expect(realvideo(hub, tmp_path, "pull", "--revision", "x=y"), ExitCode.USAGE, "is not REPOSITORY=COMMIT")


def expect(answered: subprocess.CompletedProcess[str], code: ExitCode, said: str) -> None:
    assert answered.returncode == code, answered.stderr
    assert said in " ".join(answered.stderr.split())
    assert "Traceback" not in answered.stderr


def realvideo(
    hub: HubServer, directory: Path, *arguments: str, file_limit: int = resource.RLIM_INFINITY
) -> subprocess.CompletedProcess[str]:
    process = start(hub, directory, *arguments, file_limit=file_limit)
    output, errors = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


def start(
    hub: HubServer, directory: Path, *arguments: str, file_limit: int = resource.RLIM_INFINITY
) -> subprocess.Popen[str]:
    command, *options = arguments
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "weights", command, "--directory", str(directory), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_test", "COLUMNS": "200", "NO_PROXY": "127.0.0.1"},
    )
    if file_limit != resource.RLIM_INFINITY:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (file_limit, file_limit))
    return process


def pickled(held: dict[str, object]) -> bytes:
    buffer = BytesIO()
    torch.save(held, buffer)
    return buffer.getvalue()
