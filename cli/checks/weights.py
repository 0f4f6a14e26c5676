"""Which presets this machine has the weights of."""

import os
from pathlib import Path

from cli.checks.finding import Finding, State
from worker.weights.catalog import BUNDLED, DRAWN_PRESETS

MEND = "fetch them with `realvideo weights pull --directory DIRECTORY` and name the directory in REALVIDEO_WEIGHTS"
BUNDLE_MEND = "the file is a part of this program: install or check it out again"


def presets() -> list[Finding]:
    """One finding for each preset."""
    from worker.pipeline.config import PRESETS

    return [_found(name) for name in PRESETS]


def _found(name: str) -> Finding:
    if name in BUNDLED:
        return _bundled(name, BUNDLED[name])
    return _drawn(name) if name in DRAWN_PRESETS else _released(name)


def _bundled(name: str, file: Path) -> Finding:
    from worker.pipeline.checkpoint import BundledWeights, CheckpointError

    try:
        BundledWeights(file)
    except CheckpointError as error:
        return Finding(_title(name), State.MISSING, str(error), BUNDLE_MEND)
    return Finding(_title(name), State.OK, f"come with the code: {file} (for drawn portraits)")


def _drawn(name: str) -> Finding:
    return Finding(_title(name), State.OK, "drawn from a seed, needs no files (moves, but shows no real face)")


def _released(name: str) -> Finding:
    """Missing files count only where a directory is named or the preset is the one to be run."""
    configured = os.environ.get("REALVIDEO_WEIGHTS")
    wanted = os.environ.get("REALVIDEO_PRESET") == name
    if not configured:
        state = State.MISSING if wanted else State.UNUSED
        return Finding(_title(name), state, "REALVIDEO_WEIGHTS is not set", MEND if wanted else "")
    missing = _missing_networks(Path(configured))
    if missing:
        return Finding(_title(name), State.MISSING, "; ".join(missing), MEND)
    return Finding(_title(name), State.OK, f"all four networks in {configured}")


def _missing_networks(directory: Path) -> list[str]:
    from worker.pipeline.checkpoint import CheckpointError, Network, ReleasedWeights

    problems = []
    for network in Network:
        try:
            ReleasedWeights(directory).reader(network)
        except CheckpointError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


def _title(preset: str) -> str:
    return f"weights ({preset})"
