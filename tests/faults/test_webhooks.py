"""Senders that die and receivers that fail: the same id, a new timestamp. More is in `tests/integration/webhooks`."""

import time

from models.job import JobStatus
from tests.faults.figures import record
from tests.faults.installation import Installation
from tests.faults.strikes import Action
from tests.waiting import wait_for
from worker.failpoints import Failpoint

SLACK_S = 15.0


def test_a_sender_that_dies_before_it_notes_the_answer_sends_the_same_event_again(installation: Installation) -> None:
    killed = installation.orders.give(Action.KILL, Failpoint.SENT)
    job_id = installation.submit()
    installation.wait_for_status(job_id, JobStatus.SUCCEEDED)
    wait_for(lambda: killed.struck is not None, timeout_s=30)
    assert killed.struck is not None
    installation.sender.wait_for_end(timeout_s=10)
    installation.sender.start()
    (event_id,) = installation.event_ids(job_id)
    wait_for(
        lambda: _times(installation, event_id) == 2,
        timeout_s=installation.seconds(65) + installation.seconds(60) + SLACK_S,
    )
    first, second = (one for one in installation.receiver.deliveries if one.webhook_id == event_id)
    assert first.body == second.body
    assert second.timestamp >= first.timestamp
    record(
        "webhook sender killed before it noted a 2xx",
        noticed_s=second.at - killed.struck.at,
        goes_on_s=second.at - killed.struck.at,
    )


def test_an_outcome_whose_worker_dies_at_once_is_reported_all_the_same(installation: Installation) -> None:
    killed = installation.orders.give(Action.KILL, Failpoint.DONE)
    job_id = installation.submit()
    wait_for(lambda: killed.struck is not None, timeout_s=30)
    assert installation.row(job_id).status == JobStatus.SUCCEEDED
    assert len(installation.event_ids(job_id)) == 1
    wait_for(lambda: set(installation.event_ids(job_id)) <= installation.receiver.ids(), timeout_s=SLACK_S)


def test_a_receiver_that_answers_badly_gets_the_same_event_until_it_answers_well(installation: Installation) -> None:
    answers = [500, None, 302]
    installation.receiver.misbehave = lambda: answers.pop(0) if answers else 204
    asked_at = time.time()
    job_id = installation.submit()
    installation.wait_for_status(job_id, JobStatus.SUCCEEDED)
    (event_id,) = installation.event_ids(job_id)
    wait_for(lambda: _times(installation, event_id) == 4, timeout_s=installation.seconds(60) + SLACK_S)
    assert answers == []
    assert time.time() > asked_at


def _times(installation: Installation, event_id: str) -> int:
    return sum(1 for delivery in installation.receiver.deliveries if delivery.webhook_id == event_id)
