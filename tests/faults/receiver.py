"""The customer's side of webhooks: an HTTP server that notes every delivery and answers as badly as it is told to."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from standardwebhooks import Webhook

from tests.factories import SECRET
from tests.servers.site import Site, running_site

HOOK = "/hook"


@dataclass(frozen=True)
class Delivery:
    webhook_id: str
    timestamp: str
    body: bytes
    at: float


@dataclass
class Receiver:
    """`misbehave` gives the status to answer with, or None to hang up without an answer; it may take its time."""

    site: Site
    deliveries: list[Delivery] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    misbehave: Callable[[], int | None] = lambda: 204

    @property
    def url(self) -> str:
        return self.site.url(HOOK)

    def ids(self) -> set[str]:
        """Of the events that arrived, whatever was answered."""
        return {delivery.webhook_id for delivery in self.deliveries}

    def behave(self) -> None:
        self.misbehave = lambda: 204

    def take(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        try:
            Webhook(SECRET).verify(body, headers)
        except Exception as error:  # noqa: BLE001 - whatever a signature can be wrong by
            self.refused.append(f"{type(error).__name__}: {error}")
        self.deliveries.append(
            Delivery(headers["webhook-id"], headers["webhook-timestamp"], body, time.time()),
        )
        status = self.misbehave()
        if status is None:
            handler.connection.close()
            return
        handler.send_response(status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    with running_site() as site:
        receiver = Receiver(site)
        site.serve(HOOK, receiver.take)
        yield receiver
