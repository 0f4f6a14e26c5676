"""The HTTP API as Python calls it: uploads, jobs, their events and outputs, webhooks.

Knows routes and shapes; shows nothing. Every wait has a deadline, and every refusal becomes a sentence.
"""

import ipaddress
import mimetypes
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from api.attempts import AttemptOut, AttemptPage
from api.schemas import JobCreate, JobOut, JobPage
from api.webhook_shapes import DeliveryPage, DeliveryWithTries, EndpointPage, RangeReplayed, RangeToReplay
from cli.connection import ServiceConnection
from cli.errors import CommandError, ExitCode
from models.job import TERMINAL_STATUSES

TIMEOUT = httpx.Timeout(30, connect=5)
TRANSFER_TIMEOUT = httpx.Timeout(60, connect=5)
"""Of each read and write, not of the whole file."""
PATIENCE_S = 60.0
"""How long a service that was there may be away while a job is followed."""
PAUSE_S = 1.0

Shape = TypeVar("Shape", bound=BaseModel)


class WrongField(BaseModel):
    field: str
    message: str


class Problem(BaseModel):
    """What this client reads of an error answer (RFC 9457)."""

    code: str
    detail: str
    errors: tuple[WrongField, ...] = ()


class SignedPut(BaseModel):
    """Where to put a file, and the headers that were signed with it."""

    url: str
    headers: dict[str, str]


class UploadTicket(BaseModel):
    id: str
    put: SignedPut


class EndpointTicket(BaseModel):
    """A webhook endpoint just made; the secret is shown this once."""

    id: str
    url: str
    secret: str


class UnreachableError(CommandError):
    """The service gave no answer, or none that can be understood."""

    def __init__(self, url: str, why: object) -> None:
        super().__init__(f"no usable answer from {url}: {why}", exit_code=ExitCode.UNREACHABLE)


class RefusedError(CommandError):
    """The API answered with a problem. `code` is stable."""

    def __init__(self, problem: Problem) -> None:
        fields = [f"{one.field}: {one.message}" for one in problem.errors if one.message not in problem.detail]
        super().__init__(f"{'; '.join([problem.detail, *fields])} [{problem.code}]", exit_code=ExitCode.REFUSED)
        self.code = problem.code


class Service:
    """A connection to one service, to be used as a context."""

    def __init__(self, connection: ServiceConnection) -> None:
        self._url = connection.url
        loopback = _is_loopback(connection.url)
        self._http = httpx.Client(
            base_url=connection.url,
            headers={"Authorization": f"Bearer {connection.api_key}"},
            timeout=TIMEOUT,
            trust_env=not loopback,  # a proxy of the environment does not reach this machine's own ports
        )
        # presigned URLs are their own permission: our key must not travel with them
        self._storage = httpx.Client(timeout=TRANSFER_TIMEOUT, trust_env=not loopback)

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()
        self._storage.close()

    def upload(self, file: Path) -> str:
        """Put a file into the storage; its upload id. Raises OSError if it cannot be read."""
        size = file.stat().st_size
        content_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        asked: dict[str, object] = {"filename": file.name, "content_type": content_type}
        if size > 0:  # an empty file is announced without its size, and refused when the job names it
            asked["bytes"] = size
        ticket = self._ask("POST", "/v1/uploads", UploadTicket, json=asked)
        headers = {"Content-Length": str(size), **ticket.put.headers}
        place = _without_query(ticket.put.url)
        try:
            with file.open("rb") as content:
                answer = self._storage.put(ticket.put.url, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise UnreachableError(place, error) from error
        if not answer.is_success:
            raise UnreachableError(place, f"{answer.status_code} to the upload of {file.name}")
        return ticket.id

    def create_job(self, wanted: JobCreate) -> JobOut:
        """The key makes a repeated request harmless: an answer that was lost is given again."""
        body = wanted.model_dump(mode="json", exclude_none=True)
        return self._ask("POST", "/v1/jobs", JobOut, json=body, headers={"Idempotency-Key": str(uuid.uuid4())})

    def job(self, job_id: str) -> JobOut:
        return self._ask("GET", f"/v1/jobs/{job_id}", JobOut)

    def jobs(self, filters: Sequence[tuple[str, str]]) -> JobPage:
        return self._ask("GET", "/v1/jobs", JobPage, params=list(filters))

    def attempts(self, job_id: str) -> Iterator[AttemptOut]:
        """All of them, the last one first."""
        after: dict[str, str] = {}
        while True:
            page = self._ask("GET", f"/v1/jobs/{job_id}/attempts", AttemptPage, params={"limit": "100", **after})
            yield from page.data
            if page.next is None:
                return
            after = {"after": page.next}

    def cancel(self, job_id: str) -> JobOut:
        return self._ask("POST", f"/v1/jobs/{job_id}/cancel", JobOut)

    def retry(self, job_id: str) -> JobOut:
        """The new job. The key makes a repeated request harmless, as for `create_job`."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        return self._ask("POST", f"/v1/jobs/{job_id}/retry", JobOut, headers=headers)

    def create_webhook_endpoint(self, url: str) -> EndpointTicket:
        return self._ask("POST", "/v1/webhook-endpoints", EndpointTicket, json={"url": url})

    def webhook_endpoints(self) -> EndpointPage:
        return self._ask("GET", "/v1/webhook-endpoints", EndpointPage, params={"limit": 100})

    def deliveries(self, endpoint_id: str, filters: Sequence[tuple[str, str]]) -> DeliveryPage:
        return self._ask("GET", f"/v1/webhook-endpoints/{endpoint_id}/deliveries", DeliveryPage, params=list(filters))

    def replay(self, endpoint_id: str, delivery_id: str) -> DeliveryWithTries:
        path = f"/v1/webhook-endpoints/{endpoint_id}/deliveries/{delivery_id}/replay"
        return self._ask("POST", path, DeliveryWithTries)

    def replay_range(self, endpoint_id: str, wanted: RangeToReplay) -> Iterator[RangeReplayed]:
        """An answer for each piece of the range. A piece is one replay, however often its request is repeated."""
        while True:
            body = wanted.model_dump(mode="json", exclude_none=True)
            headers = {"Idempotency-Key": str(uuid.uuid4())}
            path = f"/v1/webhook-endpoints/{endpoint_id}/replay"
            replayed = self._ask("POST", path, RangeReplayed, json=body, headers=headers)
            yield replayed
            if replayed.next is None:
                return
            wanted = wanted.model_copy(update={"after": replayed.next})

    def follow(self, job_id: str) -> Iterator[JobOut]:
        """The job at each change until it has ended. A stream that breaks off is taken up again."""
        last_heard = time.monotonic()
        while True:
            try:
                for job in self._events(job_id):
                    last_heard = time.monotonic()
                    yield job
                    if job.status in TERMINAL_STATUSES:
                        return
            except httpx.TransportError as error:
                if time.monotonic() - last_heard > PATIENCE_S:
                    raise UnreachableError(self._url, error) from error
            time.sleep(PAUSE_S)

    def download(self, job_id: str, *, variant: str, to: Path) -> None:
        """An output of a finished job: the whole file, or none."""
        link = self._content_link(job_id, variant)
        unfinished = to.with_name(f".{to.name}.{uuid.uuid4().hex[:8]}")
        try:
            with self._storage.stream("GET", link) as answer:
                if not answer.is_success:
                    raise UnreachableError(_without_query(link), f"{answer.status_code} to the download of {variant}")
                with unfinished.open("wb") as output:
                    for piece in answer.iter_bytes():
                        output.write(piece)
            unfinished.replace(to)
        except httpx.HTTPError as error:
            raise UnreachableError(_without_query(link), error) from error
        finally:
            unfinished.unlink(missing_ok=True)

    def _content_link(self, job_id: str, variant: str) -> str:
        path = f"/v1/jobs/{job_id}/content"
        try:
            answer = self._http.get(path, params={"variant": variant})
        except httpx.HTTPError as error:
            raise UnreachableError(self._url, error) from error
        if not answer.is_redirect:
            raise self._refusal(answer)
        assert answer.next_request is not None
        return str(answer.next_request.url)

    def _events(self, job_id: str) -> Iterator[JobOut]:
        """One stream of server-sent events, as long as it lasts."""
        with self._http.stream("GET", f"/v1/jobs/{job_id}/events") as answer:
            if not answer.is_success:
                answer.read()
                raise self._refusal(answer)
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    yield self._understood(line.removeprefix("data:").strip(), JobOut)

    def _ask(self, method: str, path: str, shape: type[Shape], **options: Any) -> Shape:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise UnreachableError(self._url, error) from error
        if not answer.is_success:
            raise self._refusal(answer)
        return self._understood(answer.text, shape)

    def _refusal(self, answer: httpx.Response) -> CommandError:
        try:
            return RefusedError(Problem.model_validate_json(answer.text))
        except ValidationError:  # a proxy's page, or another program on that port
            return UnreachableError(self._url, f"status {answer.status_code} to {answer.request.url.path}")

    def _understood(self, text: str, shape: type[Shape]) -> Shape:
        try:
            return shape.model_validate_json(text)
        except ValidationError as error:
            raise UnreachableError(
                self._url, f"its answer is not a {shape.__name__}; is this the right URL?"
            ) from error


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _without_query(url: str) -> str:
    """A presigned URL without what makes it valid, for messages and logs."""
    return url.partition("?")[0]
