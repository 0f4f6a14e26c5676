"""The queue contract: names of queues and tasks, and the broker settings every Celery app must share.

A message is only a wake-up that carries an id. No correctness depends on its arriving, arriving once, or surviving.
"""

from collections.abc import Collection
from enum import StrEnum
from typing import Any


class Priority(StrEnum):
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class TaskName(StrEnum):
    RENDER = "realvideo.render"  # args: job id
    DELIVER = "realvideo.deliver_webhook"  # args: delivery id


WEBHOOK_QUEUE = "webhooks"


def render_queue(preset: str, priority: Priority) -> str:
    """A queue for each preset, since a node has the weights of one, and in it for each priority.

    Redis message priorities are not used.
    """
    return f"render.{preset}.{priority}"


def render_queues(preset: str, priorities: Collection[Priority] = tuple(Priority)) -> tuple[str, ...]:
    """What a node of this preset consumes that serves these priorities, the most urgent first."""
    return tuple(render_queue(preset, priority) for priority in Priority if priority in priorities)


BROKER_SETTINGS: dict[str, Any] = {
    "task_serializer": "json",
    "accept_content": ["json"],
    "result_backend": None,
    "task_ignore_result": True,
    "worker_pool": "threads",
    "worker_prefetch_multiplier": 1,
    "task_acks_late": True,
    "task_reject_on_worker_lost": False,  # only the reconciler retries
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "task_publish_retry": False,  # the reconciler publishes again
    "broker_transport_options": {
        "visibility_timeout": 86_400,
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "global_keyprefix": "render:",
        "queue_order_strategy": "priority",  # the order in which the queues were named
    },
}

# for a program that only publishes: a broker that is down or half open costs it two seconds, not half a minute; kombu
# itself would try again and again
PUBLISHER_TRANSPORT_OPTIONS: dict[str, Any] = {
    **BROKER_SETTINGS["broker_transport_options"],
    "socket_timeout": 2,
    "socket_connect_timeout": 2,
    "retry_on_timeout": False,
    "max_retries": 0,
    "interval_start": 0,
    "interval_step": 0,
    "interval_max": 0,
}
