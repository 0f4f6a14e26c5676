"""The times of a lease, a redispatch, a retry at a fraction, in the process that calls it; the proportions stay.

At 1.0 everything is as in production but the waits between the tries of a webhook, which are hours. Knows names of
modules and changes those that the process has imported: importing all of them would take half of a node's start.
"""

import datetime as dt
import sys

LONGEST_WEBHOOK_PAUSE = dt.timedelta(seconds=10)

SECONDS = (
    ("worker.tasks.lease", "RENEW_EVERY_S"),
    ("worker.tasks.lease", "LOOK_EVERY_S"),
    ("worker.tasks.lease", "WRITE_AT_MOST_EVERY_S"),
    ("worker.tasks.lease", "GIVE_UP_AFTER_S"),
    ("worker.tasks.checkpointing", "LOOK_EVERY_S"),
    ("worker.scheduler", "RESCUE_EVERY_S"),
    ("worker.scheduler", "PUBLISH_EVERY_S"),
    ("worker.scheduler", "STANDBY_S"),
    ("worker.scheduler", "AFTER_DATABASE_ERROR_S"),
    ("worker.scheduler", "AFTER_BROKER_ERROR_S"),
    ("models.patient_connection", "ANSWER_TIMEOUT_S"),
    ("worker.consumer_process", "LONGEST_PAUSE_S"),
    ("worker.consumer_process", "LIVED_WELL_S"),
    ("worker.storage.s3_connection", "READ_TIMEOUT_S"),
    ("worker.tasks.webhooks", "TIMEOUT_S"),
    ("worker.tasks.webhooks", "CLAIM_PATIENCE_S"),
    ("worker.tasks.webhooks", "RECORD_PATIENCE_S"),
)
LIVELINESS = (
    ("worker.consumer_process", "QUIET_S"),
    ("worker.consumer_process", "FROZEN_S"),
    ("worker.signs_of_life", "EVERY_S"),
)
SHORTEST_LIVELINESS = 0.2
"""Of their times: a busy machine leaves a live process waiting for some seconds."""
SPANS = (
    ("models.transitions", "LEASE"),
    ("models.transitions", "ERROR_RETRY_DELAY"),
    ("models.dispatch", "REDISPATCH_AFTER"),
    ("models.deliveries", "REDISPATCH_AFTER"),
    ("models.deliveries", "LOCK"),
)
BROKER_TIMES = ("socket_timeout", "health_check_interval")


def set_clock(fraction: float) -> None:
    """Once, when everything is imported and before anything of the process runs."""
    for name, constant in (*SECONDS, *SPANS):
        _shorten(name, constant, fraction)
    for name, constant in LIVELINESS:
        _shorten(name, constant, max(fraction, SHORTEST_LIVELINESS))
    deliveries = sys.modules.get("models.deliveries")
    if deliveries is not None:
        deliveries.SCHEDULE = tuple(min(wait, LONGEST_WEBHOOK_PAUSE) * fraction for wait in deliveries.SCHEDULE)
    queues = sys.modules["models.queues"]
    options = queues.BROKER_SETTINGS["broker_transport_options"]
    for name in BROKER_TIMES:
        options[name] *= fraction


def _shorten(name: str, constant: str, fraction: float) -> None:
    module = sys.modules.get(name)
    if module is not None:
        setattr(module, constant, getattr(module, constant) * fraction)
