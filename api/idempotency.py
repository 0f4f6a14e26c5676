"""Repeated creating requests: the same Idempotency-Key and body get the same answer. Knows the table of answers.

The key is locked for the transaction that creates the resource and stores the answer, so both exist or neither does. A
request that fails stores nothing and may be repeated under its key.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from api.errors import ApiError, ErrorCode
from api.patterns import IDEMPOTENCY_KEY
from models.database import Database
from models.idempotency import IdempotentAnswer

REPLAYED = "Idempotent-Replayed"

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=IDEMPOTENCY_KEY,
        description="Names this request. Repeated with the same body it gets the same answer and creates nothing.",
    ),
]


@dataclass(frozen=True)
class Created:
    """An answer to a request that created something."""

    status_code: int
    body: dict[str, Any]
    location: str | None
    is_replay: bool = False

    def response(self) -> JSONResponse:
        headers = {REPLAYED: "true"} if self.is_replay else {}
        if self.location is not None:
            headers["Location"] = self.location
        return JSONResponse(self.body, status_code=self.status_code, headers=headers)


@dataclass(frozen=True)
class RequestIdentity:
    """What makes two requests the same: the tenant and key, and the digest of method, path and body."""

    tenant_id: str
    key: str | None
    sha256: bytes


def identify(request: Request, body: BaseModel | None, *, tenant_id: str, key: str | None) -> RequestIdentity:
    fields = {} if body is None else body.model_dump(mode="json", exclude_unset=True)
    canonical = json.dumps([request.method, request.url.path, fields], sort_keys=True, separators=(",", ":"))
    return RequestIdentity(tenant_id=tenant_id, key=key, sha256=hashlib.sha256(canonical.encode()).digest())


def stored_answer(session: Session, identity: RequestIdentity) -> Created | None:
    """The answer that this request got before. Raises ApiError `idempotency_mismatch` if another one used the key."""
    if identity.key is None:
        return None
    answer = session.get(IdempotentAnswer, (identity.tenant_id, identity.key))
    if answer is None:
        return None
    if answer.request_sha256 != identity.sha256:
        raise ApiError(ErrorCode.idempotency_mismatch)
    return Created(
        status_code=answer.status_code, body=answer.body["body"], location=answer.body["location"], is_replay=True
    )


def create_once(database: Database, identity: RequestIdentity, create: Callable[[Session], Created]) -> Created:
    """The answer of `create`, run in one transaction with the record of the key; or the answer given before.

    Raises ApiError `idempotency_in_flight` while the same key is being answered.
    """
    with database.transaction() as session:
        if identity.key is None:
            return create(session)
        if not session.scalar(select(func.pg_try_advisory_xact_lock(lock_number(identity)))):
            raise ApiError(ErrorCode.idempotency_in_flight, headers={"Retry-After": "1"})
        before = stored_answer(session, identity)
        if before is not None:
            return before
        created = create(session)
        session.add(
            IdempotentAnswer(
                tenant_id=identity.tenant_id,
                key=identity.key,
                request_sha256=identity.sha256,
                status_code=created.status_code,
                body={"body": created.body, "location": created.location},
            )
        )
        return created


def lock_number(identity: RequestIdentity) -> int:
    digest = hashlib.sha256(f"idempotency:{identity.tenant_id}:{identity.key}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)
