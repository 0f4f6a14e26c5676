#!/usr/bin/env python3
"""Sets this checkout up and runs it: `python3 run.py demo`, `python3 run.py test` or `python3 run.py up`.

Knows Python's standard library, uv and pip: nothing of the project is installed yet when this starts. It builds `.venv`
from `uv.lock`, stamps it so that the next start takes no time, and hands over to the program that was asked for.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
TOOLS = ROOT / ".tools"
STAMP = VENV / "made-from"

OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON = (3, 13)
OLDEST_UV = (0, 9)
CPU_TORCH = "2.13.0"
FREE_GB_FOR = {"cpu": 4, "cuda": 14}
INDEX_URL = "https://pypi.org/simple/"
QUIET = [] if sys.stderr.isatty() else ["--quiet"]  # progress bars are for people

BAD_PYTHON = 3
DISK_FULL = 4
NOT_INSTALLED = 5
EXIT_CODES = """\
exit codes:
  0  it worked            1  the demo, a test or the stack failed (the reason is printed)
  2  wrong arguments      3  this Python or system is not suitable
  4  the disk is full     5  the packages could not be installed"""

PROGRAMS = {
    "demo": ["-m", "infra.local.demo"],
    "up": ["-m", "infra.local.up"],
    # by file and folder, so that warm groups and stacks are started once; three at a time, since many a test waits
    "test": ["-m", "pytest", "-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"],
}


class SetupError(Exception):
    """Why this machine cannot run the project, in words for the person at the terminal."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def main() -> None:
    options, rest = read_arguments()
    try:
        set_up(options.torch)
        if options.command == "test":
            bring_triton()
    except SetupError as problem:
        print(f"run.py: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        print("\nrun.py: stopped during the set-up; the next start goes on from here.", file=sys.stderr)
        sys.exit(130)
    hand_over(options.command, rest)


def read_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="run.py",
        description="Sets this checkout up (the first time only) and runs it.",
        epilog=EXIT_CODES + "\n\nOther arguments go to the program: `run.py up --port 9000`, `run.py test -k storage`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--torch",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="which build of PyTorch to install; auto: cuda where nvidia-smi finds a GPU (default: auto)",
    )
    parser.add_argument(
        "command",
        choices=["demo", "test", "up"],
        help="demo: one job from speech and portrait to an MP4; test: the whole test suite; "
        "up: keep the stack running until Ctrl-C",
    )
    options, rest = parser.parse_known_args()
    return options, rest


def set_up(asked_torch: str) -> None:
    check_python()
    kind = torch_kind(asked_torch)
    if is_made(kind):
        return
    try:
        with only_one_setup_at_a_time():
            if not is_made(kind):
                make_environment(kind)
    except PermissionError as error:
        message = f"{error.filename} cannot be written by this user. Use a checkout of your own."
        raise SetupError(NOT_INSTALLED, message) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SetupError(DISK_FULL, f"the disk of {ROOT} is full. Free some space and start again.") from error
        raise


def check_python() -> None:
    version = sys.version_info[:2]
    if not OLDEST_PYTHON <= version <= NEWEST_PYTHON:
        raise SetupError(
            BAD_PYTHON,
            f"this is Python {sys.version.split()[0]}, but the project needs Python 3.11, 3.12 or 3.13. "
            "Install one of them and start run.py with it, for example: python3.12 run.py demo",
        )
    if not sys.platform.startswith("linux"):
        raise SetupError(BAD_PYTHON, "the project runs on Linux only (on Windows, inside WSL 2; else in a container).")


def torch_kind(asked: str) -> str:
    """`cpu` or `cuda`; auto takes cuda where a driver lists a GPU."""
    if asked != "auto":
        return asked
    nvidia_smi = shutil.which("nvidia-smi")
    if nvidia_smi is None:
        return "cpu"
    try:
        listed = subprocess.run([nvidia_smi, "-L"], capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        print("run.py: nvidia-smi does not answer; going on without a GPU.", file=sys.stderr)
        return "cpu"
    return "cuda" if listed.returncode == 0 and "GPU" in listed.stdout else "cpu"


@contextlib.contextmanager
def only_one_setup_at_a_time():
    """Two starts in one checkout wait for each other instead of writing the same files."""
    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("run.py: another run.py sets this checkout up; waiting for it (Ctrl-C to stop) …", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_made(kind: str) -> bool:
    return STAMP.is_file() and STAMP.read_text() == stamp(kind) and venv_python().exists()


def stamp(kind: str) -> str:
    """Changes whenever the environment would: other packages, another Python, another build of PyTorch."""
    made_from = hashlib.sha256()
    for name in ("uv.lock", "pyproject.toml"):
        made_from.update((ROOT / name).read_bytes())
    return f"{made_from.hexdigest()} {kind} python-{sys.version_info[0]}.{sys.version_info[1]} {ROOT}\n"


def make_environment(kind: str) -> None:
    started = time.monotonic()
    check_free_space(kind)
    print(f"Setting up (once): packages for {kind} into {VENV} …", flush=True)
    STAMP.unlink(missing_ok=True)
    uv = find_uv() or install_uv()
    base_python = getattr(sys, "_base_executable", None) or sys.executable
    install([uv, "venv", *QUIET, "--allow-existing", "--python", base_python, str(VENV)])
    if kind == "cpu":
        install_for_cpu(uv)
    else:
        install_all_locked(uv)
    STAMP.write_text(stamp(kind))
    print(f"Set up in {time.monotonic() - started:.0f} s.", flush=True)


def check_free_space(kind: str) -> None:
    needed, free = FREE_GB_FOR[kind], shutil.disk_usage(ROOT).free / 1e9
    if free < needed:
        raise SetupError(
            DISK_FULL,
            f"setting up needs about {needed} GB of free space in {ROOT}, but only {free:.1f} GB are free. "
            "Free some, or move the checkout to a larger disk.",
        )


def find_uv() -> str | None:
    """A uv that is new enough: from PATH, or the one an earlier set-up installed."""
    for candidate in (shutil.which("uv"), str(TOOLS / "uv" / "bin" / "uv")):
        if candidate is None or not Path(candidate).exists():
            continue
        answer = subprocess.run([candidate, "--version"], capture_output=True, text=True, timeout=30, check=False)
        found = re.match(r"uv (\d+)\.(\d+)", answer.stdout)
        if answer.returncode == 0 and found and (int(found[1]), int(found[2])) >= OLDEST_UV:
            return candidate
    return None


def install_uv() -> str:
    """uv by the pip of a virtual environment of its own: Debian forbids pip in the system's Python."""
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        raise SetupError(
            BAD_PYTHON,
            "this Python comes without venv and ensurepip. On Debian or Ubuntu install them with `apt install "
            f"python3-venv` (or python{sys.version_info[0]}.{sys.version_info[1]}-venv), or put uv on PATH.",
        )
    home = TOOLS / "uv"
    install([sys.executable, "-m", "venv", "--clear", str(home)])
    install([str(home / "bin" / "python"), "-m", "pip", "install", *QUIET, f"uv>={OLDEST_UV[0]}.{OLDEST_UV[1]}"])
    return str(home / "bin" / "uv")


def install_for_cpu(uv: str) -> None:
    """Everything as locked, with hashes, but PyTorch as its CPU build: the locked one brings 6 GB of CUDA libraries."""
    requirements = VENV / "requirements.txt"
    install([uv, "export", "--quiet", "--frozen", "--no-emit-project", "--prune", "torch", "-o", str(requirements)])
    pip_install = [uv, "pip", "install", *QUIET, "--python", str(venv_python())]
    install([*pip_install, "--require-hashes", "-r", str(requirements)])
    if not has_cpu_torch() and not install_cpu_torch(pip_install):
        print("run.py: no CPU build of PyTorch within reach; installing the large one.", file=sys.stderr)
        check_free_space("cuda")
        install_all_locked(uv)
        return
    install([*pip_install, "--no-deps", "--editable", str(ROOT)])


def bring_triton() -> None:
    """As locked. In tests its interpreter stands in for a GPU, and PyTorch's CPU build comes without it."""
    if any(VENV.glob("lib/python*/site-packages/triton/__init__.py")):
        return
    import tomllib  # not there in a Python that is too old, which has been refused by now

    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    triton = next(package for package in packages if package["name"] == "triton")
    hashes = [f"--hash={wheel['hash']}" for wheel in triton["wheels"]]
    requirement = VENV / "triton.txt"
    requirement.write_text(" ".join([f"triton=={triton['version']}", *hashes]))
    print(f"Setting up (once): Triton {triton['version']} for the tests of the GPU's kernels …", flush=True)
    uv = find_uv() or install_uv()
    with only_one_setup_at_a_time():
        pip_install = [uv, "pip", "install", *QUIET, "--python", str(venv_python()), "--no-deps"]
        install([*pip_install, "--require-hashes", "-r", str(requirement)])


def has_cpu_torch() -> bool:
    version_files = VENV.glob("lib/python*/site-packages/torch/version.py")
    return any(f"'{CPU_TORCH}+cpu'" in file.read_text() for file in version_files)


def install_cpu_torch(pip_install: list[str]) -> bool:
    """The CPU build from a directory of wheels that pip was told of, else from PyTorch's own index."""
    wheels = [part for place in pip_settings("find-links") for part in ("--find-links", place)]
    if wheels:
        from_wheels = [*pip_install, *wheels, f"torch=={CPU_TORCH}+cpu"]
        dry_run = [*from_wheels, "--dry-run"]
        if subprocess.run(dry_run, capture_output=True, env=uv_environment(), check=False).returncode == 0:
            install(from_wheels)
            return True
    from_pytorch = [*pip_install, "--torch-backend", "cpu", f"torch=={CPU_TORCH}"]
    return subprocess.run(from_pytorch, env=uv_environment(), check=False).returncode == 0


def install_all_locked(uv: str) -> None:
    install([uv, "sync", *QUIET, "--frozen", "--python", str(venv_python())])


def install(command: list[str]) -> None:
    if subprocess.run(command, cwd=ROOT, env=uv_environment(), check=False).returncode == 0:
        return
    if shutil.disk_usage(ROOT).free < 200e6:
        raise SetupError(DISK_FULL, f"the disk of {ROOT} is full. Free some space and start again.")
    why = why_unreachable(uv_environment().get("UV_DEFAULT_INDEX", INDEX_URL))
    if why is not None:
        raise SetupError(
            NOT_INSTALLED,
            f"the packages could not be downloaded: {why}. Check the network (HTTPS_PROXY for a proxy, "
            "UV_DEFAULT_INDEX for a mirror of PyPI) and start again; what was downloaded is kept.",
        )
    raise SetupError(NOT_INSTALLED, f"this failed, its own message is above: {' '.join(command)}")


def why_unreachable(index_url: str) -> str | None:
    try:
        with urllib.request.urlopen(index_url.rstrip("/") + "/uv/", timeout=15):  # noqa: S310
            return None
    except (urllib.error.URLError, OSError, ValueError) as error:
        return f"{index_url} cannot be reached ({getattr(error, 'reason', error)})"


def uv_environment() -> dict[str, str]:
    """The environment for uv and pip: the system's certificates, and the mirror that pip was told of."""
    environment = {**os.environ, "UV_PROJECT_ENVIRONMENT": str(VENV)}
    environment.pop("VIRTUAL_ENV", None)
    environment.setdefault("UV_SYSTEM_CERTS", "1")
    environment.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    # every rank imports PyTorch: 3 s with bytecode, 10 s without, at each start where Python may not write any
    environment.setdefault("UV_COMPILE_BYTECODE", "1")
    for mirror in pip_settings("index-url"):
        environment.setdefault("UV_DEFAULT_INDEX", mirror)
    return environment


def pip_settings(name: str) -> list[str]:
    """The values of one of pip's settings: uv's variable of that name, pip's, then pip's configuration files."""
    variable = name.upper().replace("-", "_")
    values = os.environ.get(f"UV_{variable}", "").replace(",", " ").split()
    values += os.environ.get(f"PIP_{variable}", "").split()
    for python in (sys.executable, str(TOOLS / "uv" / "bin" / "python")):
        if not Path(python).exists():
            continue
        listed = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
        for line in listed.stdout.splitlines():
            key, _, value = line.partition("=")
            if key.split(".", 1)[-1] == name:
                values += str(ast.literal_eval(value)).split()
        if listed.returncode == 0:
            break
    return list(dict.fromkeys(values))


def hand_over(command: str, rest: list[str]) -> None:
    """Becomes the program: signals reach it directly, and its exit code is ours."""
    environment = {**os.environ, "VIRTUAL_ENV": str(VENV), "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    for inherited in ("PYTHONHOME", "PYTHONPATH"):
        environment.pop(inherited, None)
    os.chdir(ROOT)
    sys.stdout.flush()
    os.execve(venv_python(), [str(venv_python()), *PROGRAMS[command], *rest], environment)  # noqa: S606


def venv_python() -> Path:
    return VENV / "bin" / "python"


if __name__ == "__main__":
    main()
