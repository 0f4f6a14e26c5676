"""Publishes ids for the workers. Knows the broker and the queue contract; nothing of rows.

Fails within a few seconds when the broker is down or half open; trying again is the caller's business.
"""

from types import TracebackType
from typing import Self

from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from models.queues import PUBLISHER_TRANSPORT_OPTIONS, WEBHOOK_QUEUE, Priority, TaskName, render_queue
from worker.celery_app import create_app


class BrokerDown(Exception):
    """The message was not published, or it is not known whether it was. Publishing it twice does no harm."""


class Publisher:
    """One connection to the broker, made at the first message and again after it broke. For one thread."""

    def __init__(self, broker_url: str) -> None:
        self._app = create_app(broker_url)
        self._app.conf.broker_transport_options = dict(PUBLISHER_TRANSPORT_OPTIONS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._app.close()

    def wake_for_render(self, job_id: str, *, preset: str, priority: str) -> None:
        """Raises BrokerDown."""
        self._publish(TaskName.RENDER, job_id, queue=render_queue(preset, Priority(priority)))

    def wake_for_delivery(self, delivery_id: str) -> None:
        """Raises BrokerDown."""
        self._publish(TaskName.DELIVER, delivery_id, queue=WEBHOOK_QUEUE)

    def _publish(self, task: TaskName, argument: str, *, queue: str) -> None:
        try:
            self._app.send_task(str(task), args=[argument], queue=queue, retry=False)
        except (KombuError, RedisError, OSError) as error:
            raise BrokerDown(f"{type(error).__name__}: {error}") from error
