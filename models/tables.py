"""Every table, so that the metadata is whole whoever needs it (migrations, tests)."""

from models.base import Base
from models.batch import Batch
from models.collected import Collected
from models.idempotency import IdempotentAnswer
from models.job import Attempt, Job
from models.tenant import ApiKey, Tenant
from models.upload import Upload
from models.webhook import WebhookDelivery, WebhookEndpoint, WebhookEvent, WebhookTry
from models.worker_node import WorkerNode

__all__ = [
    "ApiKey", "Attempt", "Base", "Batch", "Collected", "IdempotentAnswer", "Job", "Tenant", "Upload", "WebhookDelivery",
    "WebhookEndpoint", "WebhookEvent", "WebhookTry", "WorkerNode",
]  # fmt: skip

metadata = Base.metadata
