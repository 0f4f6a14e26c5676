"""`realvideo doctor`: looks at this machine and says in plain words what works, what is missing and how to mend it.

Knows the order of the checks and how to show them; each check knows its own subject.
"""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cli.checks.finding import Finding


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as one JSON document.")] = False,
) -> None:
    """Say what works on this machine, what is missing, and how to mend it."""
    from cli.checks.finding import State

    findings = look_at_everything()
    if as_json:
        _print_json(findings)
    else:
        _print_plainly(findings)
    if any(finding.state is State.MISSING for finding in findings):
        raise typer.Exit(1)


def look_at_everything() -> "list[Finding]":
    from cli.checks import connections, machine, media, network, weights

    return [
        machine.python(),
        machine.memory(),
        *machine.disks(),
        network.torch_build(),
        *network.gpus(),
        *media.ffmpeg(),
        *weights.presets(),
        connections.postgres(),
        connections.broker(),
        connections.storage(),
        connections.api(),
    ]


def _print_json(findings: "Sequence[Finding]") -> None:
    import json

    from cli.checks.finding import State

    document = {
        "ok": all(finding.state is not State.MISSING for finding in findings),
        "findings": [finding.as_document() for finding in findings],
    }
    typer.echo(json.dumps(document, indent=2))


def _print_plainly(findings: "Sequence[Finding]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cli.checks.finding import State

    marks = {
        State.OK: ("✓", "green"),
        State.NOTE: ("·", "yellow"),
        State.UNUSED: ("–", "dim"),
        State.MISSING: ("✗", "bold red"),
    }
    lines = Table.grid(padding=(0, 2, 0, 0))
    for finding in findings:
        lines.add_row(Text(*marks[finding.state]), Text(finding.name, style="bold"), finding.said)
        if finding.mend:
            lines.add_row("", "", Text(f"→ {finding.mend}", style="cyan"))
    console = Console(highlight=False)
    console.print(lines)
    missing = [finding.name for finding in findings if finding.state is State.MISSING]
    console.print(f"\nMissing: {', '.join(missing)}." if missing else "\nNothing that is needed is missing.")
