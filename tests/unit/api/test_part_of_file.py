import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from api.local_storage import PartOfFile
from api.ranges import ByteRange


def test_the_file_is_closed_where_the_client_is_gone_before_the_first_byte(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_bytes(b"video")
    file = path.open("rb")

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise OSError("the client is gone")

    response = PartOfFile(file, ByteRange(0, 4), status_code=200, headers={})
    scope = {"type": "http", "method": "GET", "asgi": {"spec_version": "2.4"}}
    with pytest.raises(ClientDisconnect):
        asyncio.run(response(scope, receive, send))
    assert file.closed
