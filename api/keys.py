"""Tenants and API keys: making, checking, listing and revoking them. Knows the tables; knows nothing of HTTP.

A key reads `rv_<id>_<secret>` and is shown once. The secret has 256 random bits, so a plain SHA-256 of it can be
stored: there is nothing to guess.
"""

import datetime as dt
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from models.ids import IdPrefix, new_id
from models.tenant import ApiKey, Tenant

SECRET_BYTES = 32
LAST_USED_STEP = dt.timedelta(minutes=1)
_TOKEN = re.compile(r"rv_([0-9A-HJKMNP-TV-Z]{26})_([0-9a-f]{64})")


class Scope(StrEnum):
    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    WEBHOOKS = "webhooks"
    WORKERS = "workers"
    DRAIN = "workers:drain"  # for operators: it stops machines that work for every tenant
    ADMIN = "admin"  # a tenant's own: includes every other one but that of operators


@dataclass(frozen=True)
class NewKey:
    """A key just made. `token` is what clients send; it cannot be shown again."""

    id: str
    token: str


@dataclass(frozen=True)
class Principal:
    """Who makes a request: a tenant, through one of its keys."""

    tenant_id: str
    key_id: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes or (Scope.ADMIN in self.scopes and scope is not Scope.DRAIN)


def create_tenant(session: Session, *, name: str) -> Tenant:
    """Raises ValueError when the name is empty; IntegrityError when another tenant has it."""
    if not name.strip():
        raise ValueError("a tenant needs a name")
    tenant = Tenant(id=new_id(IdPrefix.TENANT), name=name)
    session.add(tenant)
    session.flush()
    return tenant


def create_key(
    session: Session, *, tenant_id: str, name: str, scopes: Iterable[Scope], expires_at: dt.datetime | None = None
) -> NewKey:
    """Raises ValueError without a scope or with an unknown one."""
    wanted = sorted({Scope(scope) for scope in scopes})
    if not wanted:
        raise ValueError(f"a key needs at least one scope of: {', '.join(Scope)}")
    key_id = new_id(IdPrefix.API_KEY)
    secret = secrets.token_hex(SECRET_BYTES)
    session.add(
        ApiKey(
            id=key_id,
            tenant_id=tenant_id,
            name=name,
            secret_sha256=_digest(secret),
            scopes=[str(scope) for scope in wanted],
            expires_at=expires_at,
        )
    )
    session.flush()
    return NewKey(id=key_id, token=f"rv_{key_id.removeprefix('key_')}_{secret}")


def list_keys(session: Session, *, tenant_id: str) -> Sequence[ApiKey]:
    """A tenant's keys, revoked ones too, newest first."""
    return session.scalars(select(ApiKey).where(ApiKey.tenant_id == tenant_id).order_by(ApiKey.id.desc())).all()


def revoke_key(session: Session, key_id: str, *, tenant_id: str) -> bool:
    """False: the tenant has no such key. Revoking twice is fine."""
    found = session.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id, ApiKey.tenant_id == tenant_id)
        .values(revoked_at=func.coalesce(ApiKey.revoked_at, func.now()))
        .returning(ApiKey.id)
    ).one_or_none()
    return found is not None


def authenticate(session: Session, token: str) -> Principal | None:
    """Who holds this key; None if nobody: malformed, unknown, another secret, revoked or expired."""
    parsed = _TOKEN.fullmatch(token)
    if parsed is None:
        return None
    key_id, secret = f"key_{parsed[1]}", parsed[2]
    key = session.get(ApiKey, key_id)
    if key is None or not hmac.compare_digest(key.secret_sha256, _digest(secret)):
        return None
    return principal_of_key(session, key_id)


def principal_of_key(session: Session, key_id: str) -> Principal | None:
    """Who a key that was checked before stands for now; None when it was revoked or has expired meanwhile."""
    now = session.scalar(select(func.now()))
    key = session.get(ApiKey, key_id)
    if key is None or now is None or not key.is_valid_at(now):
        return None
    # a write per minute and key, not per request
    session.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id, or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < now - LAST_USED_STEP))
        .values(last_used_at=func.now()),
        execution_options={"synchronize_session": False},
    )
    known = {str(scope) for scope in Scope}
    return Principal(
        tenant_id=key.tenant_id,
        key_id=key.id,
        scopes=frozenset(Scope(scope) for scope in key.scopes if scope in known),
    )


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
