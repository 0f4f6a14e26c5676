"""run.py: what it says when this machine does not fit, and that it does nothing the second time."""

import errno
import importlib.util
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / "run.py"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """run.py as a module, at work in an empty checkout with no uv on PATH."""
    spec = importlib.util.spec_from_file_location("run_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("uv.lock", "pyproject.toml"):
        (tmp_path / name).write_text(name)
    for name, path in {"ROOT": "", "VENV": ".venv", "TOOLS": ".tools", "STAMP": ".venv/made-from"}.items():
        monkeypatch.setattr(module, name, tmp_path / path)
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    return module


def test_help_needs_no_set_up_and_documents_the_exit_codes() -> None:
    shown = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, timeout=30, check=True)
    for word in ("demo", "test", "up", "exit codes:", "the disk is full"):
        assert word in shown.stdout


def test_only_the_standard_library_is_imported() -> None:
    code = f"import runpy, sys; runpy.run_path({str(SCRIPT)!r}); print(*sorted(sys.modules))"
    shown = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    top_level = {name.partition(".")[0] for name in shown.stdout.split()}
    assert top_level - sys.stdlib_module_names - {"__main__", "sitecustomize"} == set()


@pytest.mark.parametrize("version", [(3, 10, 13), (3, 14, 0)])
def test_a_python_that_does_not_fit_is_named_with_those_that_do(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(run.sys, "version_info", version)
    with pytest.raises(run.SetupError, match=r"3\.11, 3\.12 or 3\.13") as raised:
        run.check_python()
    assert raised.value.exit_code == run.BAD_PYTHON


def test_an_old_python_gets_the_message_and_not_a_syntax_error() -> None:
    old = shutil.which("python3.10") or shutil.which("python3.9")
    if old is None or subprocess.run([old, "-c", ""], capture_output=True, timeout=30, check=False).returncode:
        pytest.skip("no older Python is installed")
    shown = subprocess.run([old, SCRIPT, "demo"], capture_output=True, text=True, timeout=30, check=False)
    assert shown.returncode == 3
    assert "needs Python 3.11" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_python_without_ensurepip_names_the_package_to_install(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(run.SetupError, match="apt install python3-venv") as raised:
        run.make_environment("cpu")
    assert raised.value.exit_code == run.BAD_PYTHON


def test_a_disk_without_room_is_noticed_before_anything_is_downloaded(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.shutil, "disk_usage", lambda _: usage(free=0.4e9))
    monkeypatch.setattr(run, "install", lambda command: pytest.fail(f"ran {command}"))
    with pytest.raises(run.SetupError, match=r"about 4 GB .* only 0\.4 GB") as raised:
        run.make_environment("cpu")
    assert raised.value.exit_code == run.DISK_FULL


def test_a_disk_that_fills_up_meanwhile_is_told_from_other_failures(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.shutil, "disk_usage", lambda _: usage(free=1e6))
    with pytest.raises(run.SetupError, match="is full") as raised:
        run.install(["false"])
    assert raised.value.exit_code == run.DISK_FULL


def test_a_write_that_finds_the_disk_full_is_a_sentence(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(kind: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run, "make_environment", full)
    with pytest.raises(run.SetupError, match="is full") as raised:
        run.set_up("cpu")
    assert raised.value.exit_code == run.DISK_FULL


def test_no_network_is_told_from_other_failures(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"http://127.0.0.1:{closed_port()}/simple")
    with pytest.raises(run.SetupError, match=r"cannot be reached .*HTTPS_PROXY") as raised:
        run.install(["false"])
    assert raised.value.exit_code == run.NOT_INSTALLED


def test_a_checkout_that_cannot_be_written_is_a_sentence(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(kind: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(run.VENV))

    monkeypatch.setattr(run, "make_environment", denied)
    with pytest.raises(run.SetupError, match="cannot be written by this user"):
        run.set_up("cpu")


def test_the_second_start_sets_nothing_up(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make(kind: str) -> None:
        made.append(kind)
        (run.VENV / "bin").mkdir(parents=True)
        run.venv_python().touch()
        run.STAMP.write_text(run.stamp(kind))

    monkeypatch.setattr(run, "make_environment", make)
    run.set_up("cpu")
    run.set_up("cpu")
    assert made == ["cpu"]


@pytest.mark.parametrize("name", ["uv.lock", "pyproject.toml"])
def test_another_lock_or_project_file_sets_up_again(run: ModuleType, name: str) -> None:
    before = run.stamp("cpu")
    (run.ROOT / name).write_text("changed")
    assert run.stamp("cpu") != before
    assert run.stamp("cuda") != run.stamp("cpu")


def test_wheels_that_pip_was_told_of_are_used_for_uv_too(run: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_FIND_LINKS", "/from/uv")
    monkeypatch.setenv("PIP_FIND_LINKS", "/from/pip https://elsewhere/")
    assert run.pip_settings("find-links")[:3] == ["/from/uv", "/from/pip", "https://elsewhere/"]


def test_a_gpu_is_believed_only_when_the_driver_lists_one(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run.torch_kind("auto") == "cpu"
    assert run.torch_kind("cuda") == "cuda"
    program = tmp_path / "nvidia-smi"
    monkeypatch.setattr(run.shutil, "which", lambda _: str(program))
    for script, kind in (("echo 'GPU 0: a card'", "cuda"), ("echo 'No devices were found'", "cpu"), ("exit 9", "cpu")):
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        assert run.torch_kind("auto") == kind, script


def usage(*, free: float) -> tuple[float, float, float]:
    return namedtuple("Usage", "total used free")(1e12, 1e12 - free, free)


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
