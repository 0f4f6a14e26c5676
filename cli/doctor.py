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
    from rich.padding import Padding
    from rich.text import Text

    from cli.checks.finding import State

    console = Console(highlight=False)
    marks = {
        State.OK: ("✓", "green"),
        State.NOTE: ("·", "yellow"),
        State.UNUSED: ("–", "dim"),
        State.MISSING: ("✗", "bold red"),
    }
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        mark, style = marks[finding.state]
        console.print(Text.assemble((f"{mark} ", style), (f"{finding.name:<{width}}  ", "bold"), finding.said))
        if finding.mend:
            console.print(Padding(Text(f"→ {finding.mend}", style="cyan"), (0, 0, 0, width + 4)))
    missing = [finding.name for finding in findings if finding.state is State.MISSING]
    console.print(f"\nMissing: {', '.join(missing)}." if missing else "\nNothing that is needed is missing.")
