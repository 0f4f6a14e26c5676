"""The times of a lease, a redispatch, a retry at a fraction, in the process that calls it; the proportions stay.

At 1.0 everything is as in production but the waits between the tries of a webhook, which are hours.
"""

import datetime as dt

from models import deliveries, dispatch, patient_connection, queues, transitions
from worker import consumer_process, scheduler, signs_of_life
from worker.storage import s3_connection
from worker.tasks import lease, webhooks

LONGEST_WEBHOOK_PAUSE = dt.timedelta(seconds=10)

SECONDS = (
    (lease, "RENEW_EVERY_S"),
    (lease, "LOOK_EVERY_S"),
    (lease, "WRITE_AT_MOST_EVERY_S"),
    (lease, "GIVE_UP_AFTER_S"),
    (scheduler, "RESCUE_EVERY_S"),
    (scheduler, "PUBLISH_EVERY_S"),
    (scheduler, "STANDBY_S"),
    (scheduler, "AFTER_DATABASE_ERROR_S"),
    (scheduler, "AFTER_BROKER_ERROR_S"),
    (patient_connection, "ANSWER_TIMEOUT_S"),
    (consumer_process, "LONGEST_PAUSE_S"),
    (consumer_process, "LIVED_WELL_S"),
    (s3_connection, "READ_TIMEOUT_S"),
    (webhooks, "TIMEOUT_S"),
    (webhooks, "CLAIM_PATIENCE_S"),
    (webhooks, "RECORD_PATIENCE_S"),
)
LIVELINESS = (
    (consumer_process, "QUIET_S"),
    (consumer_process, "FROZEN_S"),
    (signs_of_life, "EVERY_S"),
)
SHORTEST_LIVELINESS = 0.2
"""Of their times: a busy machine leaves a live process waiting for some seconds."""
SPANS = (
    (transitions, "LEASE"),
    (transitions, "ERROR_RETRY_DELAY"),
    (dispatch, "REDISPATCH_AFTER"),
    (deliveries, "REDISPATCH_AFTER"),
    (deliveries, "LOCK"),
)
BROKER_TIMES = ("socket_timeout", "health_check_interval")


def set_clock(fraction: float) -> None:
    """Once, before anything of the process runs."""
    for module, name in (*SECONDS, *SPANS):
        setattr(module, name, getattr(module, name) * fraction)
    for module, name in LIVELINESS:
        setattr(module, name, getattr(module, name) * max(fraction, SHORTEST_LIVELINESS))
    waits = (min(wait, LONGEST_WEBHOOK_PAUSE) * fraction for wait in deliveries.SCHEDULE)
    setattr(deliveries, "SCHEDULE", tuple(waits))  # noqa: B010 - its type says ten of them
    options = queues.BROKER_SETTINGS["broker_transport_options"]
    for name in BROKER_TIMES:
        options[name] *= fraction
