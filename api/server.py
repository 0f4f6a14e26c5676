"""The API's process: reads its settings, listens, and stops in good order. The entry point of `realvideo api`."""

import signal
import socket
import sys
from types import FrameType

import uvicorn

from api.app import create_app
from api.changes import JobChanges
from api.log import configure_logging
from api.settings import ApiSettings

KEEP_ALIVE_S = 15


def main() -> None:
    """Serve until SIGTERM or SIGINT. Open event streams end at once, other requests within the shutdown timeout."""
    settings = ApiSettings()
    configure_logging(settings.log_format)
    server = make_server(settings)
    # the server stops in good order and then raises the signal once more: that is no failure
    signal.signal(signal.SIGTERM, _end)
    server.run()


def _end(signal_number: int, frame: FrameType | None) -> None:
    del signal_number, frame
    sys.exit(0)


def make_server(settings: ApiSettings) -> "ApiServer":
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
        lifespan="on",
    )
    return ApiServer(config, changes=app.state.services.changes)


class ApiServer(uvicorn.Server):
    """Ends the event streams before it waits for requests to end: they would never end by themselves."""

    def __init__(self, config: uvicorn.Config, *, changes: JobChanges) -> None:
        super().__init__(config)
        self._changes = changes

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._changes.close()
        await super().shutdown(sockets)


if __name__ == "__main__":
    main()
