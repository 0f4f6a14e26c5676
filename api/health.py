"""`/healthz`: the process answers. `/readyz`: what it needs answers too, asked afresh each time with short timeouts."""

from typing import Literal

import psycopg
import redis
from fastapi import APIRouter
from redis.backoff import NoBackoff
from redis.retry import Retry

from api.errors import ApiError, ErrorCode, FieldProblem
from api.openapi import open_problems
from api.schemas import Answer
from api.services import InjectedServices
from models.database import psycopg_url

TIMEOUT_S = 2

router = APIRouter(tags=["operation"])


class Health(Answer):
    status: Literal["ok"] = "ok"


@router.get("/healthz", response_model=Health)
@router.head("/healthz", include_in_schema=False)  # monitors ask so
async def healthz() -> Health:
    """Alive: the process can answer. Says nothing of what it needs."""
    return Health()


@router.get("/readyz", response_model=Health, responses=open_problems(ErrorCode.not_ready))
@router.head("/readyz", include_in_schema=False)
def readyz(services: InjectedServices) -> Health:
    """Ready: the database and the broker answer within two seconds. Otherwise `errors` names what is down."""
    asked = {
        "database": _database_complaint(services.settings.database_url),
        "broker": _broker_complaint(services.settings.broker_url),
    }
    down = [
        FieldProblem(field=name, code="down", message=complaint)
        for name, complaint in asked.items()
        if complaint is not None
    ]
    if down:
        names = " and ".join(problem.field for problem in down)
        raise ApiError(ErrorCode.not_ready, f"Down: {names}.", errors=down, headers={"Retry-After": "5"})
    return Health()


def _database_complaint(database_url: str) -> str | None:
    # a connection of its own: those of the pool could hang, or all be in use
    url = psycopg_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        with psycopg.connect(
            url, connect_timeout=TIMEOUT_S, options=f"-c statement_timeout={TIMEOUT_S * 1000}"
        ) as connection:
            connection.execute("SELECT 1")
    except psycopg.Error as error:
        return type(error).__name__  # its text names hosts and users
    return None


def _broker_complaint(broker_url: str) -> str | None:
    client = redis.Redis.from_url(
        broker_url,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        client.ping()
    except redis.RedisError as error:
        return type(error).__name__
    finally:
        client.close()
    return None
