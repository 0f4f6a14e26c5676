"""ffmpeg and what it can encode."""

import subprocess

from cli.checks.finding import Finding, State

NEEDED = ("libx264", "aac")
TIMEOUT_S = 20
