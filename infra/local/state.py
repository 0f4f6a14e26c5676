"""What the local stack keeps between runs, below `.realvideo/`: its secrets, and where the running one answers.

Knows files and their modes; starts nothing.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

CHECKOUT = Path(__file__).resolve().parents[2]
STATE_DIRECTORY = CHECKOUT / ".realvideo"


class Secrets(BaseModel):
    """Drawn once, for this checkout."""

    model_config = ConfigDict(frozen=True)

    storage_secret: str
    session_secret: str


class Connection(BaseModel):
    """How to reach the stack that runs now."""

    model_config = ConfigDict(frozen=True)

    url: str
    api_key: str
    database_url: str
    pid: int


def kept_secrets(directory: Path) -> Secrets:
    """The secrets of this state directory, drawn at the first call."""
    file = directory / "secrets.json"
    if not file.exists():
        drawn = Secrets(storage_secret=secrets.token_urlsafe(32), session_secret=secrets.token_urlsafe(32))
        write_private(file, drawn.model_dump_json())
    return Secrets.model_validate_json(file.read_text())


@contextmanager
def announced(directory: Path, connection: Connection) -> Iterator[None]:
    """While the block runs, other commands find the stack."""
    file = connection_file(directory)
    write_private(file, connection.model_dump_json())
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def running_connection(directory: Path) -> Connection | None:
    """How to reach the stack of this state directory; None if none runs."""
    try:
        connection = Connection.model_validate_json(connection_file(directory).read_text())
    except (FileNotFoundError, PermissionError, ValidationError):
        return None
    return connection if _runs(connection.pid) else None


def connection_file(directory: Path) -> Path:
    return directory / "connection.json"


def write_private(file: Path, text: str) -> None:
    """Write a file that only its owner can read; readers see the old one or the new one, never half."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as output:
        output.write(text)
    unfinished.replace(file)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
