"""docker-compose.yml against the code: its commands, variables and ports are the ones the programs have.

No engine runs here. Compose itself checks the file where `docker compose` is installed.
"""

import importlib
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic_settings import BaseSettings

from api.settings import ApiSettings
from cli.main import command_line

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "docker-compose.yml"
OURS = {"api", "scheduler", "webhooks", "worker", "worker-gpu", "migrate", "create-bucket"}


class NoKeyTwice(yaml.SafeLoader):
    """Refuses what compose refuses and PyYAML takes: a key twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        assert not twice, f"line {node.start_mark.line + 1}: {twice}"
        return super().construct_mapping(node, deep)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.load(COMPOSE.read_text(), Loader=NoKeyTwice)["services"]


def test_there_is_a_service_for_every_part_and_no_other(services: dict[str, Any]) -> None:
    assert set(services) == OURS | {"postgres", "valkey", "s3"}


def test_every_command_is_one_of_the_realvideo_command(services: dict[str, Any]) -> None:
    known = set(typer.main.get_command(command_line()).commands)
    for name in OURS:
        (command,) = services[name]["command"]
        assert command in known, name


def test_every_variable_is_a_field_of_some_settings(services: dict[str, Any]) -> None:
    known = all_variables()
    for name in OURS:
        unknown = set(services[name]["environment"]) - known
        assert not unknown, name


def test_every_program_gets_the_settings_it_cannot_start_without(services: dict[str, Any]) -> None:
    for name in OURS - {"migrate", "create-bucket"}:
        environment = dict.fromkeys(services[name]["environment"], "1")
        assert {"DATABASE_URL", "BROKER_URL", "REALVIDEO_S3_BUCKET"} <= set(environment), name


def test_the_api_listens_on_the_port_that_is_published_and_asked_for_health(services: dict[str, Any]) -> None:
    port = ApiSettings.model_fields["api_port"].default
    assert services["api"]["environment"]["REALVIDEO_API_PORT"] == str(port)
    assert services["api"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"127.0.0.1:{port}/readyz" in services["api"]["healthcheck"]["test"][-1]
    assert f"EXPOSE {port}" in (ROOT / "infra/docker/Dockerfile").read_text()


@pytest.mark.parametrize("name", ["worker", "worker-gpu"])
def test_workers_are_asked_for_health_at_the_port_they_are_given(services: dict[str, Any], name: str) -> None:
    port = services[name]["environment"]["REALVIDEO_HEALTH_PORT"]
    assert f"127.0.0.1:{port}/readyz" in services[name]["healthcheck"]["test"][-1]


def test_the_scheduler_is_asked_for_the_file_that_it_touches(services: dict[str, Any]) -> None:
    alive = services["scheduler"]["environment"]["REALVIDEO_SCHEDULER_ALIVE_FILE"]
    assert alive.startswith("/tmp/"), "the only place it can write to"
    assert f"'{alive}'" in services["scheduler"]["healthcheck"]["test"][-1]


def test_the_storage_listens_where_the_programs_look_for_it(services: dict[str, Any]) -> None:
    port = services["s3"]["environment"]["VGW_PORT"]
    assert services["api"]["environment"]["REALVIDEO_S3_ENDPOINT_URL"] == f"http://s3{port}"
    assert services["s3"]["ports"] == [f"127.0.0.1{port}{port}"]
    assert services["api"]["environment"]["REALVIDEO_S3_PUBLIC_ENDPOINT_URL"].endswith(f"127.0.0.1{port}}}")


def test_a_worker_has_longer_to_stop_than_it_takes_to_drain(services: dict[str, Any]) -> None:
    from worker.settings import WorkerSettings

    for name in ("worker", "worker-gpu"):
        grace_s = int(services[name]["stop_grace_period"].removesuffix("s"))
        assert grace_s > WorkerSettings.model_fields["drain_grace_s"].default + 10


def test_no_service_runs_with_more_rights_than_it_needs(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name


def test_every_image_of_ours_ends_as_an_ordinary_user(services: dict[str, Any]) -> None:
    stages = re.split(r"^FROM ", (ROOT / "infra/docker/Dockerfile").read_text(), flags=re.MULTILINE)
    users = {stage.split()[2]: re.findall(r"^USER (\S+)", stage, re.MULTILINE) for stage in stages[1:]}
    targets = {services[name]["build"]["target"] for name in OURS}
    assert targets == {"api", "worker", "worker-gpu"}
    for target in targets:
        assert users[target] == ["realvideo"], target


def test_no_secret_has_a_default() -> None:
    secrets = re.findall(r"\$\{([A-Z0-9_]*(?:PASSWORD|SECRET|ACCESS_KEY)[A-Z0-9_]*)(.*?)\}", COMPOSE.read_text())
    assert len({name for name, _ in secrets}) == 5
    assert all(rest.startswith(":?") for _, rest in secrets), secrets


def test_make_env_draws_every_secret_once_for_its_owner_alone(tmp_path: Path) -> None:
    script = _copied_make_env(tmp_path)
    subprocess.run([script], check=True, capture_output=True, timeout=20)
    first = (tmp_path / ".env").read_text()
    asked_for = set(re.findall(r"\$\{([A-Z0-9_]+):\?", COMPOSE.read_text()))
    drawn = dict(line.split("=", 1) for line in first.splitlines() if not line.startswith("#"))
    assert set(drawn) == asked_for
    assert all(len(value) >= 20 for value in drawn.values())
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    subprocess.run([script], check=True, capture_output=True, timeout=20)
    assert (tmp_path / ".env").read_text() == first


def test_compose_takes_the_file_with_secrets_and_refuses_it_without(tmp_path: Path) -> None:
    compose = _compose_program()
    if compose is None:
        pytest.skip("docker compose is not installed")
    shutil.copy(COMPOSE, tmp_path)
    script = _copied_make_env(tmp_path)
    config = [*compose, "--project-directory", tmp_path, "--profile", "gpu", "config", "--quiet"]
    without = subprocess.run(config, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert without.returncode != 0
    assert "make-env" in without.stderr
    subprocess.run([script], check=True, capture_output=True, timeout=20)
    with_secrets = subprocess.run(config, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert with_secrets.returncode == 0, with_secrets.stderr


def all_variables() -> set[str]:
    """The environment variables that some settings class of the project reads."""
    for module in ("api.settings", "infra.compose.bucket", "models.settings", "worker.scheduler", "worker.settings"):
        importlib.import_module(module)
    found: set[str] = set()
    for settings in _subclasses(BaseSettings):
        if not settings.__module__.startswith(("api.", "infra.", "models.", "worker.")):
            continue
        prefix = settings.model_config.get("env_prefix", "")
        for name, field in settings.model_fields.items():
            found.add(str(field.validation_alias) if field.validation_alias else f"{prefix}{name}".upper())
    return found


def _subclasses(base: type) -> list[type]:
    return [one for direct in base.__subclasses__() for one in (direct, *_subclasses(direct))]


def _copied_make_env(directory: Path) -> Path:
    script = directory / "infra/compose/make-env"
    script.parent.mkdir(parents=True)
    shutil.copy(ROOT / "infra/compose/make-env", script)
    return script


def _compose_program() -> list[str] | None:
    standalone = os.environ.get("DOCKER_COMPOSE") or shutil.which("docker-compose")
    for candidate in ([standalone] if standalone else [], ["docker", "compose"]):
        if not candidate or shutil.which(candidate[0]) is None:
            continue
        answer = subprocess.run(
            [*candidate, "version", "--short"], capture_output=True, text=True, timeout=20, check=False
        )
        if answer.returncode == 0 and not answer.stdout.startswith("1."):
            return candidate
    return None
