"""Deleting what has served its time, some thousand rows at once. Knows rows; run by the reconciler."""

import datetime as dt

from sqlalchemy import CursorResult, text
from sqlalchemy.orm import Session

ANSWERS_KEPT = dt.timedelta(hours=24)  # as promised for Idempotency-Key
TRIES_KEPT = dt.timedelta(days=30)
SILENT_NODES_KEPT = dt.timedelta(days=7)
BATCH = 5_000

# by ctid, so that one statement never deletes more than a batch
PRUNES = (
    (
        text("""
            DELETE FROM idempotent_answers WHERE ctid IN (
                SELECT ctid FROM idempotent_answers WHERE created_at < now() - :age LIMIT :batch
            )
        """),
        ANSWERS_KEPT,
    ),
    (
        text("""
            DELETE FROM webhook_tries WHERE ctid IN (
                SELECT tried.ctid FROM webhook_tries AS tried
                  JOIN webhook_deliveries AS delivery ON delivery.id = tried.delivery_id
                 WHERE tried.started_at < now() - :age AND delivery.status <> 'pending'
                 LIMIT :batch
            )
        """),
        TRIES_KEPT,
    ),
    (
        text("""
            DELETE FROM worker_nodes WHERE ctid IN (
                SELECT ctid FROM worker_nodes WHERE last_seen_at < now() - :age LIMIT :batch
            )
        """),
        SILENT_NODES_KEPT,
    ),
)


def prune(session: Session) -> int:
    """Delete up to a batch of each kind; how many rows. 0 means that nothing old is left."""
    deleted = 0
    for statement, age in PRUNES:
        result = session.execute(statement, {"age": age, "batch": BATCH})
        assert isinstance(result, CursorResult)
        deleted += result.rowcount
    return deleted
