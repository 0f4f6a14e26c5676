"""`realvideo show`: one job of a running service, and what became of each try of it. Knows output; the HTTP is in
`client.py`."""

from typing import TYPE_CHECKING

import typer

from cli.client_commands import JOB_ID, JSON, connected_service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from api.attempts import AttemptOut
    from api.schemas import JobOut


def show(job_id: JOB_ID, as_json: JSON = False) -> None:
    """Tell all about a job: where it is, what was asked for, and how each attempt ended."""
    from rich.table import Table

    from cli.tables import print_table

    with connected_service() as service:
        job = service.job(job_id)
        attempts = list(service.attempts(job_id))
    if as_json:
        typer.echo(_as_json(job, attempts))
        return
    facts = Table.grid("name", "value", padding=(0, 2))
    for name, value in _facts(job):
        facts.add_row(name, value)
    print_table(facts)
    if not attempts:
        return
    typer.echo()
    tries = Table("attempt", "outcome", "began", "seconds", "worker", "error", box=None)
    for one in attempts:
        lasted = None if one.ended_at is None else (one.ended_at - one.started_at).total_seconds()
        tries.add_row(
            str(one.attempt),
            one.outcome or "under way",
            f"{one.started_at:%Y-%m-%d %H:%M:%S}",
            "" if lasted is None else f"{lasted:.1f}",
            one.worker or "",
            "" if one.error is None else f"{one.error.message} [{one.error.code}]",
        )
    print_table(tries)


def _facts(job: "JobOut") -> "Iterator[tuple[str, str]]":
    done, total = job.progress.blocks_done, job.progress.blocks_total
    yield "job", job.id
    yield "status", job.status if job.phase is None else f"{job.status}, {job.phase}"
    if job.error is not None:
        yield "error", f"{job.error.message} [{job.error.code}]"
    if total:
        yield "blocks", f"{done} of {total}"
    if job.queue_position is not None:
        yield "place in the queue", str(job.queue_position)
    for name, moment in (
        ("created", job.created_at), ("started", job.started_at), ("completed", job.completed_at),
        ("perhaps done", job.eta), ("deadline", job.deadline), ("kept until", job.expires_at),
    ):  # fmt: skip
        if moment is not None:
            yield name, f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    for name, text in (
        ("custom id", job.custom_id), ("batch", job.batch_id), ("retry of", job.retry_of), ("sound", job.input.audio),
        ("picture", job.input.image), ("video", job.input.video), ("prompt", job.input.prompt),
    ):  # fmt: skip
        if text is not None:
            yield name, text
    yield from job.metadata.items()
    if job.output is not None:
        made = job.output
        yield "output", f"{made.duration:.2f} s, {made.width}×{made.height}, {made.fps} frames/s, {made.bytes} bytes"
        for warning in made.warnings:
            yield "warning", f"{warning.message} [{warning.code}]"


def _as_json(job: "JobOut", attempts: "list[AttemptOut]") -> str:
    import json

    whole = {**job.model_dump(mode="json"), "attempts": [one.model_dump(mode="json") for one in attempts]}
    return json.dumps(whole, indent=2, ensure_ascii=False)
