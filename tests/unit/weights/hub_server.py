"""A hub of a few files on loopback, speaking as much of the Hugging Face hub's interface as a download needs.

It can break connections in the middle of a file, and it remembers what was asked of it.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class HubServer:
    url: str = ""
    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    """By repository and commit."""
    main: dict[str, str] = field(default_factory=dict)
    """The commit that the branch `main` of a repository is at."""
    break_after: int | None = None
    """Bytes of an answer after which the connection breaks."""
    pause_after_break: bool = False
    """Instead of breaking, the answer stands still there until this is taken back."""
    serve_instead: dict[str, bytes] = field(default_factory=dict)
    """Other contents than those whose size and hash are stated."""
    stated_sizes: dict[str, int] = field(default_factory=dict)
    """Other sizes than those of the contents."""
    refuse: int | None = None
    """Status that downloads are answered with."""
    ranges: list[str | None] = field(default_factory=list)
    """The Range header of every download."""
    tokens: list[str | None] = field(default_factory=list)

    def publish(self, repository: str, commit: str, files: dict[str, bytes]) -> None:
        self.files[repository, commit] = files
        self.main[repository] = commit

    def info(self, repository: str, commit: str) -> dict[str, Any]:
        siblings = [
            {
                "rfilename": name,
                "size": self.stated_sizes.get(name, len(content)),
                "blobId": "0" * 40,
                **(
                    {"lfs": {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}}
                    if len(content) > 100
                    else {}
                ),
            }
            for name, content in self.files[repository, commit].items()
        ]
        return {"id": repository, "sha": commit, "siblings": siblings, "private": False, "tags": [], "downloads": 0}


@contextmanager
def hub_server() -> Iterator[HubServer]:
    hub = HubServer()

    class Handler(_Handler):
        server_hub = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if about := re.fullmatch(r"/api/models/(.+?/.+?)/revision/(.+)", path):
            self._tell(about[1], about[2])
        elif file := re.fullmatch(r"/(.+?/.+?)/resolve/(.+?)/(.+)", path):
            self._send_file(file[1], file[2], file[3])
        else:
            self._answer(404, b"{}")

    def _tell(self, repository: str, revision: str) -> None:
        hub = self.server_hub
        hub.tokens.append(self.headers.get("Authorization"))
        commit = hub.main.get(repository) if revision == "main" else revision
        if (repository, commit) not in hub.files or commit is None:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        else:
            self._answer(200, json.dumps(hub.info(repository, commit)).encode())

    def _send_file(self, repository: str, commit: str, name: str) -> None:
        hub = self.server_hub
        if hub.refuse:
            self._answer(hub.refuse, b"")
            return
        content = hub.serve_instead.get(name, hub.files[repository, commit][name])
        asked = self.headers.get("Range")
        hub.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        piece = content[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(piece)))
        self.end_headers()
        if hub.break_after is not None and len(piece) > hub.break_after:
            self.wfile.write(piece[: hub.break_after])
            self.wfile.flush()
            while hub.pause_after_break:
                time.sleep(0.05)
            self.close_connection = True
        else:
            self.wfile.write(piece)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        """Tests are quiet."""
