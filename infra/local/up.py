"""`python3 run.py up`: keeps the local stack running until Ctrl-C. Its data stays in `.realvideo/up` between runs."""

import argparse
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from infra.local.parts import RANKS_OF_SMALL_PRESETS
from infra.local.process import ServerError
from infra.local.signals import StopRequestedError, stop_at_first_signal
from infra.local.stack import Stack, StackSettings
from infra.local.state import STATE_DIRECTORY, Connection, announced, running_connection
from infra.local.status_lines import StatusLines
from worker.gpus import visible_gpus
from worker.usual_preset import usual_preset

CHECK_EVERY_S = 1.0


def main() -> None:
    arguments = _arguments()
    console = Console(highlight=False)
    stop_at_first_signal()
    try:
        _run(arguments, console)
    except StopRequestedError:
        console.print("Stopped; no process is left.")
    except (ServerError, OSError) as error:
        console.print(f"[red]run.py up:[/red] {escape(str(error))}")
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run.py up", description="Keeps the local stack running until Ctrl-C.")
    parser.add_argument("--port", type=_port, default=8000, help="of the API and the jobs page (default: 8000)")
    parser.add_argument(
        "--preset",
        help="which network the worker runs (default: 14b where REALVIDEO_WEIGHTS names its weights and there is a "
        "GPU, else avatar)",
    )
    worker = parser.add_mutually_exclusive_group()
    worker.add_argument("--ranks", type=int, help="processes of the worker's only group (default for avatar: 2)")
    worker.add_argument(
        "--layout", help="how the worker's GPUs are shared out, see `realvideo worker --help` (default: auto)"
    )
    parser.add_argument(
        "--state", type=Path, default=STATE_DIRECTORY, help="where data and secrets are kept (default: .realvideo)"
    )
    return parser.parse_args()


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise argparse.ArgumentTypeError(f"{port} is no port: there are 1 to 65535")
    return port


def _run(arguments: argparse.Namespace, console: Console) -> None:
    state: Path = arguments.state.resolve()
    state.mkdir(parents=True, exist_ok=True)
    other = running_connection(state)
    if other is not None:
        raise ServerError(f"the stack of this checkout runs already, at {other.url} (process {other.pid})")
    preset = arguments.preset or _usual_preset(console)
    ranks = arguments.ranks
    if ranks is None and arguments.layout is None:
        ranks = RANKS_OF_SMALL_PRESETS.get(preset)
    settings = StackSettings(
        directory=state / "up",
        secrets_directory=state,
        api_port=arguments.port,
        durable=True,
        preset=preset,
        ranks=ranks,
        layout=arguments.layout or "auto",
    )
    stack = Stack(settings, on_step=StatusLines(console).step)
    try:
        with stack:
            here = Connection(url=stack.url, api_key=stack.api_key, database_url=stack.database_url, pid=os.getpid())
            with announced(state, here):
                _tell(console, stack)
                _watch(stack)
    finally:
        console.print("Stopping …")


def _usual_preset(console: Console) -> str:
    named = os.environ.get("REALVIDEO_WEIGHTS")
    chosen = usual_preset(
        weights=Path(named) if named else None, gpus=visible_gpus(), weights_named_by="REALVIDEO_WEIGHTS"
    )
    if chosen.why is not None:
        console.print(chosen.why, soft_wrap=True)
    return chosen.name


def _tell(console: Console, stack: Stack) -> None:
    console.print(
        f"\n[bold]RealVideo is up.[/bold]\n"
        f"  Jobs page  {stack.url}/\n"
        f"  API        {stack.url}/v1   (described at {stack.url}/docs)\n"
        f"  API key    {stack.api_key}\n"
        f"  Logs       {stack.logs}\n\n"
        "Try, in another terminal:\n"
        "  .venv/bin/realvideo submit --audio infra/samples/speech.wav --image infra/samples/portraits/square-1.png "
        "--watch\n\n"
        "Ctrl-C stops everything; the jobs stay for the next start.",
        soft_wrap=True,
    )


def _watch(stack: Stack) -> None:
    """Until a signal raises `StopRequestedError`, or a part ends by itself."""
    while True:
        stack.check()
        time.sleep(CHECK_EVERY_S)


if __name__ == "__main__":
    main()
