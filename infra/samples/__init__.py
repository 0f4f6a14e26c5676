"""The samples: a speech, and portraits of the kind that the avatar preset knows. Knows where they lie; `make.py` makes
them.
"""

from pathlib import Path

_HERE = Path(__file__).resolve().parent
SPEECH = _HERE / "speech.wav"
PORTRAIT = _HERE / "portraits" / "square-1.png"
"""The one that demo and tests take."""


def portraits() -> list[Path]:
    """All of them, the square ones first."""
    return sorted((_HERE / "portraits").glob("*.png"))
