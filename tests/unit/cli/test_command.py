"""The `realvideo` command from outside: how fast it answers, how it fails, which code it ends with."""

import hashlib
import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.table import Table

from cli.client import PATIENCE_S
from cli.errors import ExitCode
from cli.main import main
from cli.tables import print_table
from worker.weights.manifest import FileRecord, Manifest

HELP_S = 0.8
"""Of computing, which a busy machine does not change much. An idle core of 2024 takes 0.35 s."""


@dataclass(frozen=True)
class Answered:
    returncode: int
    stdout: str
    stderr: str


RunCommand = Callable[..., Answered]


@pytest.fixture
def realvideo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """`realvideo(*arguments, **environment)`: the entry point as the installed script calls it, in this process."""

    def run(*arguments: str, **environment: str) -> Answered:
        for name in os.environ:
            if name.startswith(("REALVIDEO_", "DATABASE_", "BROKER_")):
                monkeypatch.delenv(name)
        for name, value in {"COLUMNS": "200", "TERM": "dumb", **environment}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["realvideo", *arguments])
        try:
            main()
        except SystemExit as end:
            code = end.code
        else:
            code = 0
        said = capsys.readouterr()
        return Answered(int(code or 0), said.out, said.err)

    return run


def test_help_answers_at_once() -> None:
    assert min(seconds_of_help() for _ in range(3)) < HELP_S


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from cli.main import command_line; command_line(); print(*sorted(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    loaded = {name.partition(".")[0] for name in shown.stdout.split()}
    assert not loaded & {"torch", "sqlalchemy", "fastapi", "httpx", "pydantic", "celery", "numpy", "boto3", "rich"}


def test_help_documents_every_exit_code(realvideo: RunCommand) -> None:
    shown = " ".join(realvideo("--help").stdout.split())
    for code in ExitCode:
        assert re.search(rf"(: |· ){code.value} ", shown), code


def test_render_takes_the_options_of_the_original_tool_with_their_defaults(realvideo: RunCommand) -> None:
    shown = " ".join(realvideo("render", "--help").stdout.split())
    for option in ("--audio -a", "--image -i", "--output -o", "--fps", "--width", "--height", "--seed", "--prompt"):
        assert option in shown, option
    for either in ("--denoising_steps", "--denoising-steps", "--no_compile", "--no-compile"):
        assert either in shown, either
    for default in ("output.mp4", "[default: 16]", "Default: 480.", "Default: 640.", "[default: 2]"):
        assert default in shown, default


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("render", "--audio", "a.wav"), ExitCode.USAGE, "--image"),
        (("render", "-a", "a.wav", "-i", "p.png", "--denoising_steps", "3"), ExitCode.USAGE, "2 or 4"),
        (("render", "-a", "a.wav", "-i", "p.png", "--width", "481"), ExitCode.USAGE, "multiples of 16"),
        (("render", "-a", "a.wav", "-i", "p.png", "--fps", "0"), ExitCode.USAGE, "fps"),
        (("render", "-a", "a.wav", "-i", "p.png", "--width", "192"), ExitCode.USAGE, "192 x 192 or 144 x 192 pixels"),
        (
            ("render", "-a", "a.wav", "-i", "p.png", "--preset", "avatar", "--size-policy", "reference-bars"),
            ExitCode.USAGE,
            "makes no bars",
        ),
        (("submit", "--audio", "a.wav"), ExitCode.USAGE, "--image or --video"),
        (("submit", "-a", __file__, "-i", "no.png"), ExitCode.USAGE, "no.png cannot be read"),
        (("submit", "-a", "a.wav", "-i", "p.png", "-o", "no/such/place.mp4"), ExitCode.USAGE, "no directory no/such"),
        (("watch", "job_1", "-o", "no/such/place.mp4"), ExitCode.USAGE, "no directory no/such"),
        (("keys", "create"), ExitCode.UNREACHABLE, "DATABASE_URL"),
        (("migrate",), ExitCode.UNREACHABLE, "DATABASE_URL"),
        (("nonsense",), ExitCode.USAGE, "No such command"),
    ],
)
def test_a_mistake_is_answered_in_a_sentence(
    realvideo: RunCommand, arguments: tuple[str, ...], code: int, said: str, tmp_path: Path
) -> None:
    answered = realvideo(*arguments, REALVIDEO_STATE_DIRECTORY=str(tmp_path))
    assert answered.returncode == code
    assert said in answered.stderr
    assert "Traceback" not in answered.stderr


@pytest.mark.parametrize(
    "command", ["jobs", "watch job_01ARZ3NDEKTSV4RRFFQ69G5FAV", "cancel job_01ARZ3NDEKTSV4RRFFQ69G5FAV"]
)
def test_no_service_is_told_with_what_to_start(realvideo: RunCommand, command: str, tmp_path: Path) -> None:
    answered = realvideo(*command.split(), REALVIDEO_STATE_DIRECTORY=str(tmp_path))
    assert answered.returncode == ExitCode.UNREACHABLE
    assert "run.py up" in answered.stderr


@pytest.mark.parametrize("command", ["jobs", "watch job_01ARZ3NDEKTSV4RRFFQ69G5FAV"])
def test_a_service_that_is_away_is_told_by_its_address_at_once(realvideo: RunCommand, command: str) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    began = time.monotonic()
    answered = realvideo(*command.split(), REALVIDEO_URL=url, REALVIDEO_API_KEY="rv_x")
    assert answered.returncode == ExitCode.UNREACHABLE
    assert url in answered.stderr
    assert "Traceback" not in answered.stderr
    assert time.monotonic() - began < PATIENCE_S / 2


@pytest.mark.parametrize("key", ["rv_é", "rv_a\nb"])
def test_a_key_that_no_header_can_carry_is_a_sentence_without_it(realvideo: RunCommand, key: str) -> None:
    answered = realvideo("jobs", REALVIDEO_URL=f"http://127.0.0.1:{closed_port()}", REALVIDEO_API_KEY=key)
    assert answered.returncode == ExitCode.UNREACHABLE
    assert answered.stderr == "realvideo: REALVIDEO_API_KEY is no API key: it holds letters that none has.\n"


def test_a_table_has_whole_lines_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = Table("id", "message", box=None)
    table.add_row("job_1", "a sentence of several words " * 3)
    print_table(table)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["id", "job_1"]


def test_a_service_without_its_settings_names_the_variable(realvideo: RunCommand) -> None:
    answered = realvideo("api")
    assert answered.returncode == ExitCode.USAGE
    assert "DATABASE_URL" in answered.stderr
    assert "Traceback" not in answered.stderr


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"REALVIDEO_MAX_FPS": "many"}, "REALVIDEO_MAX_FPS: Input should be a valid integer"),
        ({}, "does not fit: set exactly one of REALVIDEO_S3_BUCKET and REALVIDEO_STORAGE_DIRECTORY"),
    ],
)
def test_a_wrong_setting_is_named_by_its_variable(
    realvideo: RunCommand, environment: dict[str, str], said: str
) -> None:
    answered = realvideo("api", DATABASE_URL="postgresql://h/d", BROKER_URL="redis://h", **environment)
    assert answered.returncode == ExitCode.USAGE
    assert said in answered.stderr


@pytest.mark.parametrize("command", ["migrate", "keys list"])
def test_a_database_that_is_away_is_a_sentence(realvideo: RunCommand, command: str) -> None:
    answered = realvideo(*command.split(), DATABASE_URL=f"postgresql://x@127.0.0.1:{closed_port()}/y")
    assert answered.returncode == ExitCode.UNREACHABLE
    assert answered.stderr.startswith("realvideo: the database cannot be used: ")
    assert len(answered.stderr.splitlines()) == 1


def test_the_api_key_cannot_be_given_where_other_users_can_read_it(realvideo: RunCommand) -> None:
    for command in ("submit", "jobs", "show", "watch", "cancel", "retry"):
        assert "key" not in re.findall(r"--[a-z-]+", realvideo(command, "--help").stdout)


def test_doctor_says_what_is_missing_and_how_to_mend_it(realvideo: RunCommand) -> None:
    database_url = f"postgresql://nobody@127.0.0.1:{closed_port()}/none"
    answered = realvideo("doctor", DATABASE_URL=database_url)
    assert answered.returncode == ExitCode.FAILED
    assert "start it, or correct DATABASE_URL" in answered.stdout
    assert answered.stdout.rstrip().endswith("Missing: Postgres.")


def test_doctor_finds_everything_here_that_the_small_presets_need(realvideo: RunCommand) -> None:
    answered = realvideo("doctor", "--json")
    assert answered.returncode == ExitCode.OK, answered.stdout
    report = json.loads(answered.stdout)
    found = {finding["name"]: finding["state"] for finding in report["findings"]}
    assert report["ok"] is True
    for name in ("Python", "PyTorch", "ffmpeg", "encoders", "weights (avatar)", "weights (tiny)"):
        assert found[name] in ("ok", "note"), name
    assert found["Postgres"] == "unused"


def test_doctor_misses_a_bundle_by_its_place(
    realvideo: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.checks.weights.BUNDLED", {"avatar": tmp_path / "avatar.safetensors"})
    answered = realvideo("doctor")
    assert answered.returncode == ExitCode.FAILED
    assert "Missing: weights (avatar)." in answered.stdout
    assert str(tmp_path / "avatar.safetensors") in answered.stdout.replace("\n", "")


def test_weights_that_changed_on_the_disk_are_named(realvideo: RunCommand, tmp_path: Path) -> None:
    file = tmp_path / "repository" / "model.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"as fetched")
    record = FileRecord(size=10, sha256=hashlib.sha256(b"as fetched").hexdigest())
    Manifest().with_file("repository/model.safetensors", record).write(tmp_path)
    assert realvideo("weights", "verify", "--directory", str(tmp_path)).returncode == ExitCode.OK
    file.write_bytes(b"as changed")
    answered = realvideo("weights", "verify", "--directory", str(tmp_path))
    assert answered.returncode == ExitCode.FAILED
    assert "model.safetensors: other content" in answered.stderr


def seconds_of_help() -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "cli.main", "--help"], capture_output=True, timeout=30, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
