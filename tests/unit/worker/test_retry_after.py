"""What a receiver's Retry-After means."""

import datetime as dt

import pytest

from worker.outbound import Response
from worker.tasks.webhooks import complaint_about, retry_after

NOW = dt.datetime(2026, 3, 1, 12, 0, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("Sun, 01 Mar 2026 12:01:30 GMT", 90),
        ("Sun, 01 Mar 2026 12:01:30 -0000", 90),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
        ("99999999999999999999", 1_000_000_000),
    ],
)
def test_seconds_and_dates_are_understood(value: str, seconds: int) -> None:
    assert retry_after(Response(503, {"retry-after": value}), now=NOW) == dt.timedelta(seconds=seconds)


@pytest.mark.parametrize("value", [
        "", "soon", "-5", "1.5", "²", "Sun, 99 Mar 2026 12:00:00 GMT", "1e9",
        "Sun, 01 Mar 99999999999999999999 12:01:30 GMT", "Sun, 01 Mar 2026 12:01:30 -99999999999999999999",
    ],
)  # fmt: skip
def test_anything_else_asks_for_nothing(value: str) -> None:
    assert retry_after(Response(503, {"retry-after": value}), now=NOW) is None


def test_an_answer_without_it_asks_for_nothing() -> None:
    assert retry_after(Response(500, {}), now=NOW) is None


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_only_2xx_is_a_success(status: int) -> None:
    assert complaint_about(status) is None


@pytest.mark.parametrize("status", [100, 199, 300, 301, 302, 308, 400, 404, 410, 500, 599])
def test_all_else_is_a_failure_that_says_why(status: int) -> None:
    complaint = complaint_about(status)
    assert complaint is not None
    assert str(status) in complaint
    assert ("redirects" in complaint) == (300 <= status < 400)
