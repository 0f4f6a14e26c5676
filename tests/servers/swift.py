"""A real S3 server on loopback: OpenStack Swift with its S3 API, four processes from a wheel.

It checks signatures, expiry and checksums, which in-process imitations do not.
"""

import getpass
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from worker.processes import die_with_parent

READY_TIMEOUT_S = 45.0
_SERVERS = ("account", "container", "object")
_PIPELINE = "catch_errors gatekeeper healthcheck cache s3api tempauth bulk slo dlo proxy-server"


@dataclass(frozen=True)
class S3Server:
    endpoint_url: str
    access_key_id: str
    secret_access_key: str
    region: str = "us-east-1"


class SwiftDidNotStart(RuntimeError):
    """The server gave up or was not ready in time; the message holds the end of its log."""


@contextmanager
def running_swift(directory: Path) -> Iterator[S3Server]:
    """Swift with its data below `directory`, on a file system with extended attributes. Ends all its processes."""
    ports = dict(zip(("proxy", *_SERVERS), _free_ports(4), strict=True))
    _configure(directory, ports)
    with ExitStack() as stack:
        processes = [stack.enter_context(_process(directory, name)) for name in ports]
        url = f"http://127.0.0.1:{ports['proxy']}"
        _wait_until_ready(url, processes, directory)
        yield S3Server(endpoint_url=url, access_key_id="test:tester", secret_access_key="testing")


def _configure(directory: Path, ports: dict[str, int]) -> None:
    (directory / "devices" / "disk").mkdir(parents=True)
    common = (
        f"[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {{port}}\nworkers = 0\nuser = {getpass.getuser()}\n"
        f"swift_dir = {directory}\ndevices = {directory / 'devices'}\nmount_check = false\nlog_level = WARNING\n"
        f"log_address = {directory / 'no-syslog'}\ndisable_fallocate = true\nfallocate_reserve = 0\n"
    )
    (directory / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = realvideo\n")
    for name in _SERVERS:
        (directory / f"{name}-server.conf").write_text(
            common.format(port=ports[name])
            + f"[pipeline:main]\npipeline = {name}-server\n[app:{name}-server]\nuse = egg:swift#{name}\n"
        )
    middleware = "".join(
        f"[filter:{name}]\nuse = egg:swift#{name}\n"
        for name in ("catch_errors", "gatekeeper", "healthcheck", "s3api", "bulk", "slo", "dlo")
    )
    (directory / "proxy-server.conf").write_text(
        common.format(port=ports["proxy"])
        + f"[pipeline:main]\npipeline = {_PIPELINE}\n[app:proxy-server]\nuse = egg:swift#proxy\n"
        + "account_autocreate = true\nallow_account_management = true\n"
        + middleware
        # nothing listens at port 1: a cache that is away is only slower
        + "[filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = 127.0.0.1:1\n"
        + "[filter:tempauth]\nuse = egg:swift#tempauth\nuser_test_tester = testing .admin\n"
    )
    rings = [f"{name}={ports[name]}" for name in _SERVERS]
    subprocess.run(
        [sys.executable, "-P", str(Path(__file__).with_name("swift_rings.py")), str(directory), *rings],
        check=True,
        timeout=60,
        capture_output=True,
    )


@contextmanager
def _process(directory: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    program = Path(sys.executable).with_name(f"swift-{name}-server")
    with (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [str(program), str(directory / f"{name}-server.conf"), "-v"],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=partial(die_with_parent, os.getpid()),  # even when the tests are killed
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
    try:
        yield process
    finally:
        # its own process group: workers go with it
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)


def _wait_until_ready(url: str, processes: list[subprocess.Popen[bytes]], directory: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and all(process.poll() is None for process in processes):
        try:
            with urllib.request.urlopen(f"{url}/healthcheck", timeout=2) as answer:
                if answer.status == 200 and all(_listens(port) for port in _ports_of(directory)):
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    logs = "\n".join(f"{log.name}: {log.read_text()[-600:]}" for log in sorted(directory.glob("*.log")))
    raise SwiftDidNotStart(f"Swift was not ready after {READY_TIMEOUT_S:.0f} s.\n{logs}")


def _ports_of(directory: Path) -> list[int]:
    configurations = [(directory / f"{name}-server.conf").read_text() for name in _SERVERS]
    return [int(text.split("bind_port = ")[1].split("\n")[0]) for text in configurations]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
