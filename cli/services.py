"""Commands that run one part of the service until it is told to end. docker-compose.yml and `run.py up` use them.

Knows the entry point of each part; each reads its own settings from the environment.
"""

import contextlib
from collections.abc import Iterator

from cli.errors import CommandError, ExitCode, reason_of


def api() -> None:
    """Serve the HTTP API and the jobs page."""
    from api.server import main

    with _plain_settings_errors():
        main()


def worker() -> None:
    """Run this machine's worker: it keeps groups of ranks warm on its GPUs and renders jobs from the queue.

    REALVIDEO_LAYOUT says how the GPUs are shared out: throughput (each renders a job of its own), latency (all but one
    share a job, the first has encoders and VAE), latency-shared (all share a job, encoders and VAE beside it), RxK (R
    groups of K ranks), or auto, which goes by the number and memory of the GPUs, REALVIDEO_PRECISION (bf16, fp8,
    fp8-attention), REALVIDEO_MEMORY (ample, low) and REALVIDEO_PRIORITIES.
    """
    from worker.machine import main

    with _plain_settings_errors():
        main()


def scheduler() -> None:
    """Rescue lost jobs, send queued ones again, expire deadlines. Any number may run: one leads."""
    from worker.scheduler import main

    with _plain_settings_errors():
        main()


def webhooks() -> None:
    """Send signed webhooks. Needs no GPU."""
    from worker.webhook_sender import main

    with _plain_settings_errors():
        main()


def migrate() -> None:
    """Bring the tables of DATABASE_URL to this version. Harmless to repeat."""
    from sqlalchemy.exc import ArgumentError, OperationalError

    from cli.connection import find_database_url
    from models.migrate import MigrationLockedError, upgrade

    try:
        upgrade(find_database_url())
    except MigrationLockedError as error:
        raise CommandError(str(error)) from error
    except (ArgumentError, OperationalError) as error:
        reason = str(error).splitlines()[0]
        raise CommandError(f"the database cannot be used: {reason}", exit_code=ExitCode.UNREACHABLE) from error


def create_bucket() -> None:
    """Make the bucket REALVIDEO_S3_BUCKET unless it exists."""
    from botocore.exceptions import BotoCoreError, ClientError

    from infra.compose.bucket import create

    try:
        with _plain_settings_errors():
            create()
    except (BotoCoreError, ClientError) as error:
        raise CommandError(f"the storage made no bucket: {error}", exit_code=ExitCode.UNREACHABLE) from error


@contextlib.contextmanager
def _plain_settings_errors() -> Iterator[None]:
    """A setting that is missing or wrong, by the name of its variable instead of a traceback."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        problems = "; ".join(
            ": ".join([*map(_variable, problem["loc"][:1]), reason_of(problem)]) for problem in error.errors()
        )
        raise CommandError(f"the environment does not fit: {problems}", exit_code=ExitCode.USAGE) from error


def _variable(setting: str | int) -> str:
    """An alias is the variable's name already; the others have the prefix of all settings."""
    name = str(setting)
    return name if name.isupper() else f"REALVIDEO_{name.upper()}"
