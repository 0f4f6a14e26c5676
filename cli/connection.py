"""Which service a client command talks to: the one in the environment, else the `run.py up` of this checkout."""

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from cli.errors import CommandError, ExitCode
from infra.local.state import STATE_DIRECTORY, running_connection


class ClientSettings(BaseSettings):
    """What an operator sets to use a service that runs elsewhere."""

    model_config = SettingsConfigDict(env_prefix="REALVIDEO_", extra="ignore", populate_by_name=True)

    url: str | None = Field(default=None, description="base URL of the API")
    api_key: SecretStr | None = None
    state_directory: Path = Field(default=STATE_DIRECTORY, description="where a running `run.py up` announces itself")


@dataclass(frozen=True)
class ServiceConnection:
    url: str
    api_key: str


class NoConnectionError(CommandError):
    """Neither the environment nor a running local stack says where the service is."""

    def __init__(self, message: str) -> None:
        super().__init__(message, exit_code=ExitCode.UNREACHABLE)


def find_connection() -> ServiceConnection:
    """Raises `NoConnectionError`, which says what to set or start."""
    settings = ClientSettings()
    if settings.url is not None:
        if settings.api_key is None:
            raise NoConnectionError("REALVIDEO_URL is set, but REALVIDEO_API_KEY is not.")
        # a file that a secret is mounted from likes to end with a newline, which no header may hold
        key = settings.api_key.get_secret_value().strip()
        if not key.isascii() or not key.isprintable():
            raise NoConnectionError("REALVIDEO_API_KEY is no API key: it holds letters that none has.")
        return ServiceConnection(settings.url.rstrip("/"), key)
    local = running_connection(settings.state_directory)
    if local is None:
        raise NoConnectionError(
            "no service found: start one with `python3 run.py up`, or set REALVIDEO_URL and REALVIDEO_API_KEY."
        )
    return ServiceConnection(local.url, local.api_key)


def find_database_url() -> str:
    """DATABASE_URL, else the running local stack's. Raises `NoConnectionError`."""

    configured = os.environ.get("DATABASE_URL")
    if configured:
        return configured
    local = running_connection(ClientSettings().state_directory)
    if local is None:
        raise NoConnectionError("no database found: set DATABASE_URL, or start the stack with `python3 run.py up`.")
    return local.database_url
