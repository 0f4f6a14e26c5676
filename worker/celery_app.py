"""The Celery app every worker process makes for itself. Knows the broker and the contract of the queues; no task.

A task is registered on the app by the module that tells its story, with what it needs to work.
"""

import copy

from celery import Celery

from models.queues import BROKER_SETTINGS


def create_app(broker_url: str) -> Celery:
    """An app without tasks, not the current one of the process. Connects to nothing yet."""
    app = Celery("realvideo", broker=broker_url, set_as_current=False)
    app.conf.update(copy.deepcopy(BROKER_SETTINGS))
    app.conf.worker_hijack_root_logger = False  # the entry point chooses how lines look
    app.conf.worker_redirect_stdouts = False
    return app
