"""The `realvideo` command from outside, as a process: how fast it answers, how it fails, which code it ends with."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.errors import ExitCode

HELP_S = 0.5


def realvideo(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("REALVIDEO_", "DATABASE"))}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**inherited, "COLUMNS": "200", "TERM": "dumb", **environment},
    )


def test_help_answers_within_half_a_second() -> None:
    fastest = min(timed_help() for _ in range(3))
    assert fastest < HELP_S


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from cli.main import command_line; command_line(); print(*sorted(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    loaded = {name.partition(".")[0] for name in shown.stdout.split()}
    assert not loaded & {"torch", "sqlalchemy", "fastapi", "httpx", "pydantic", "celery", "numpy", "boto3", "rich"}


def test_help_documents_every_exit_code() -> None:
    shown = " ".join(realvideo("--help").stdout.split())
    for code in ExitCode:
        assert re.search(rf"(: |· ){code.value} ", shown), code


def test_render_takes_the_options_of_the_original_tool_with_their_defaults() -> None:
    shown = " ".join(realvideo("render", "--help").stdout.split())
    for option in ("--audio -a", "--image -i", "--output -o", "--fps", "--width", "--height", "--seed", "--prompt"):
        assert option in shown, option
    for either in ("--denoising_steps", "--denoising-steps", "--no_compile", "--no-compile"):
        assert either in shown, either
    for default in ("output.mp4", "[default: 16]", "[default: 480]", "[default: 640]", "[default: 2]"):
        assert default in shown, default


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("render", "--audio", "a.wav"), ExitCode.USAGE, "--image"),
        (("render", "-a", "a.wav", "-i", "p.png", "--denoising_steps", "3"), ExitCode.USAGE, "2 or 4"),
        (("render", "-a", "a.wav", "-i", "p.png", "--width", "481"), ExitCode.USAGE, "multiples of 16"),
        (("render", "-a", "a.wav", "-i", "p.png", "--fps", "0"), ExitCode.USAGE, "fps"),
        (("submit", "--audio", "a.wav"), ExitCode.USAGE, "--image or --video"),
        (("keys", "create"), ExitCode.UNREACHABLE, "DATABASE_URL"),
        (("migrate",), ExitCode.UNREACHABLE, "DATABASE_URL"),
        (("nonsense",), ExitCode.USAGE, "No such command"),
    ],
)
def test_a_mistake_is_answered_in_a_sentence(arguments: tuple[str, ...], code: int, said: str, tmp_path: Path) -> None:
    answered = realvideo(*arguments, REALVIDEO_STATE_DIRECTORY=str(tmp_path))
    assert answered.returncode == code
    assert said in answered.stderr
    assert "Traceback" not in answered.stderr


@pytest.mark.parametrize(
    "command", ["jobs", "watch job_01ARZ3NDEKTSV4RRFFQ69G5FAV", "cancel job_01ARZ3NDEKTSV4RRFFQ69G5FAV"]
)
def test_no_service_is_told_with_what_to_start(command: str, tmp_path: Path) -> None:
    answered = realvideo(*command.split(), REALVIDEO_STATE_DIRECTORY=str(tmp_path))
    assert answered.returncode == ExitCode.UNREACHABLE
    assert "run.py up" in answered.stderr


def test_a_service_that_is_away_is_told_by_its_address() -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    answered = realvideo("jobs", REALVIDEO_URL=url, REALVIDEO_API_KEY="rv_x")
    assert answered.returncode == ExitCode.UNREACHABLE
    assert url in answered.stderr
    assert "Traceback" not in answered.stderr


def test_a_service_without_its_settings_names_the_variable() -> None:
    answered = realvideo("api")
    assert answered.returncode == ExitCode.USAGE
    assert "DATABASE_URL" in answered.stderr
    assert "Traceback" not in answered.stderr


def test_the_api_key_cannot_be_given_where_other_users_can_read_it() -> None:
    for command in ("submit", "jobs", "watch", "cancel"):
        assert "key" not in re.findall(r"--[a-z-]+", realvideo(command, "--help").stdout)


def test_doctor_says_what_is_missing_and_how_to_mend_it() -> None:
    database_url = f"postgresql://nobody@127.0.0.1:{closed_port()}/none"
    answered = realvideo("doctor", DATABASE_URL=database_url)
    assert answered.returncode == ExitCode.FAILED
    assert "start it, or correct DATABASE_URL" in answered.stdout
    assert answered.stdout.rstrip().endswith("Missing: Postgres.")


def test_doctor_finds_everything_here_that_the_tiny_preset_needs() -> None:
    answered = realvideo("doctor", "--json")
    assert answered.returncode == ExitCode.OK, answered.stdout
    report = json.loads(answered.stdout)
    found = {finding["name"]: finding["state"] for finding in report["findings"]}
    assert report["ok"] is True
    for name in ("Python", "PyTorch", "ffmpeg", "encoders", "weights (tiny)"):
        assert found[name] in ("ok", "note"), name
    assert found["Postgres"] == "unused"


def timed_help() -> float:
    began = time.monotonic()
    assert realvideo("--help").returncode == 0
    return time.monotonic() - began


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
