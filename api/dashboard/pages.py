"""Renders the dashboard's HTML. Knows templates and what a browser may load; knows no SQL."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from api.dashboard.session import Viewer
from api.errors import Problem
from api.job_actions import RETRYABLE
from api.job_filters import JobFilter
from api.schemas import JobOut
from api.services import Services
from models.job import TERMINAL_STATUSES, JobStatus

HERE = Path(__file__).parent
_TICKED = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class ListPlace:
    """Which part of the list a page shows."""

    wanted: JobFilter
    after: str | None

    @property
    def is_first(self) -> bool:
        return self.after is None

    def url(self, *, after: str | None = None) -> str:
        return f"/{self.query(after=after)}"

    def query(self, *, after: str | None = None) -> str:
        pairs = [("status", str(status)) for status in self.wanted.statuses]
        if self.wanted.text:
            pairs.append(("q", self.wanted.text))
        if after is not None:
            pairs.append(("after", after))
        return f"?{urlencode(pairs)}" if pairs else ""


@dataclass(frozen=True)
class JobRow:
    """A job as a row of the table shows it."""

    job: JobOut
    has_poster: bool

    @property
    def is_active(self) -> bool:
        return self.job.status not in TERMINAL_STATUSES

    @property
    def can_retry(self) -> bool:
        return self.job.status in RETRYABLE

    @property
    def title(self) -> str:
        """What a person calls the job, or what it is about."""
        return self.job.custom_id or self.job.metadata.get("title") or self.job.input.prompt

    @property
    def label(self) -> str:
        """The status in a word, as a person sees it."""
        if self.is_active and self.job.cancel_requested_at is not None:
            return "canceling"
        return self.job.phase or self.job.status


def login_page(
    services: Services, *, nonce: str, error: str | None, then: str | None, status: int = 200
) -> HTMLResponse:
    """`then` is the page that was asked for."""
    html = _templates().get_template("login.html").render(nonce=nonce, error=error, then=then)
    return _page(html, services, status=status)


def problem_page(problem: Problem, services: Services) -> HTMLResponse:
    """An error, for people."""
    html = _templates().get_template("problem.html").render(problem=problem)
    return _page(html, services, status=problem.status)


def jobs_page(
    services: Services,
    viewer: Viewer,
    *,
    rows: Sequence[JobRow],
    counts: dict[JobStatus, int],
    place: ListPlace,
    next_after: str | None,
    notice: str | None,
) -> HTMLResponse:
    html = (
        _templates()
        .get_template("jobs.html")
        .render(
            rows=rows,
            counts=counts,
            statuses=list(JobStatus),
            place=place,
            next_url=None if next_after is None else place.url(after=next_after),
            notice=notice,
            viewer=viewer,
        )
    )
    return _page(html, services)


def fragment(template: str, **values: object) -> str:
    """HTML for a part of a page."""
    return _templates().get_template(template).render(**values)


def render(template: str, services: Services, **values: object) -> HTMLResponse:
    return _page(_templates().get_template(template).render(**values), services)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["seconds"] = _seconds
    environment.filters["size"] = _size
    environment.filters["ticks"] = _ticks
    return environment


def _page(html: str, services: Services, *, status: int = 200) -> HTMLResponse:
    # posters and videos come by a redirect from the storage
    public = urlsplit(services.settings.public_url)
    origins = {f"{public.scheme}://{public.netloc}", services.storage.origin}
    media = " ".join(["'self'", *sorted(origin for origin in origins if origin is not None)])
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src {media}; "
        f"media-src {media}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(
        html, status_code=status, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"}
    )


def _seconds(value: float) -> str:
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes}:{seconds:02d}" if minutes else f"{value:.1f} s"


def _ticks(text: str) -> Markup:
    """Text whose parts in backticks are code."""
    return Markup(_TICKED.sub(r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped before


def _size(value: int) -> str:
    return f"{value / 1e6:.1f} MB" if value >= 100_000 else f"{value / 1e3:.0f} kB"
