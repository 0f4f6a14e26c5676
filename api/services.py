"""What endpoints work with: the record, the storage, the queue. Made once per app, found by dependency."""

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from api.changes import JobChanges
from api.http_metrics import HttpMetrics
from api.queue import RenderQueue
from api.settings import ApiSettings
from api.storage import Storage
from models.database import Database


@dataclass(frozen=True)
class Services:
    settings: ApiSettings
    database: Database
    storage: Storage
    queue: RenderQueue
    changes: JobChanges
    http_metrics: HttpMetrics
    session_key: bytes = field(repr=False)


def _services(request: Request) -> Services:
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


InjectedServices = Annotated[Services, Depends(_services)]
