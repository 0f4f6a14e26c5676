"""API keys and what they may do."""

import datetime as dt
from collections.abc import Callable

import httpx
import pytest
from sqlalchemy import text

from api.keys import NewKey, Scope, authenticate, create_key, create_tenant, list_keys, revoke_key
from models.database import Database
from models.tenant import ApiKey, Tenant
from tests import factories
from tests.integration.api.running import BODY, RunningApi, problem

ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.fixture
def key(database: Database, tenant: Tenant) -> NewKey:
    with database.transaction() as session:
        return create_key(session, tenant_id=tenant.id, name="studio", scopes=[Scope.JOBS_READ])


def test_a_key_is_kept_as_a_hash_only(database: Database, key: NewKey) -> None:
    secret = key.token.rpartition("_")[2]
    with database.transaction() as session:
        row = session.execute(text("SELECT api_keys::text FROM api_keys")).scalar_one()

    assert len(bytes.fromhex(secret)) == 32
    assert secret not in row
    assert key.token.startswith(f"rv_{key.id.removeprefix('key_')}_")


def test_only_the_whole_valid_key_is_accepted(database: Database, key: NewKey, tenant: Tenant) -> None:
    with database.transaction() as session:
        principal = authenticate(session, key.token)
        assert principal is not None
        assert (principal.tenant_id, principal.key_id) == (tenant.id, key.id)
        other = "0" if key.token[-1] != "0" else "1"
        for wrong in (
            "",
            key.token[:-1],
            key.token[:-1] + other,
            key.token + "0",
            key.id,
            key.token.replace("rv", "xx"),
        ):
            assert authenticate(session, wrong) is None


def test_a_revoked_or_expired_key_is_refused(database: Database, tenant: Tenant, key: NewKey, api: RunningApi) -> None:
    with database.transaction() as session:
        expired = create_key(
            session, tenant_id=tenant.id, name="old", scopes=[Scope.JOBS_READ],
            expires_at=dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1),
        )  # fmt: skip
    with api.client(key.token) as client:
        assert client.get("/v1/jobs").status_code == 200
        with database.transaction() as session:
            assert revoke_key(session, key.id, tenant_id=tenant.id)
            assert revoke_key(session, key.id, tenant_id=tenant.id)
        assert problem(client.get("/v1/jobs")) == (401, "invalid_api_key")
    with api.client(expired.token) as client:
        assert problem(client.get("/v1/jobs")) == (401, "invalid_api_key")


def test_a_tenant_revokes_and_lists_its_own_keys_only(database: Database, tenant: Tenant, key: NewKey) -> None:
    with database.transaction() as session:
        other = create_tenant(session, name="other")
        theirs = create_key(session, tenant_id=other.id, name="k", scopes=[Scope.ADMIN])

        assert not revoke_key(session, theirs.id, tenant_id=tenant.id)
        assert [one.id for one in list_keys(session, tenant_id=tenant.id)] == [key.id]
        assert authenticate(session, theirs.token) is not None


def test_a_key_needs_known_scopes(database: Database, tenant: Tenant) -> None:
    with database.transaction() as session:
        for scopes in ([], ["everything"]):
            with pytest.raises(ValueError, match=r"scope|Scope"):
                create_key(session, tenant_id=tenant.id, name="k", scopes=scopes)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="name"):
            create_tenant(session, name=" ")


def test_the_last_use_is_noted_about_once_a_minute(database: Database, key: NewKey) -> None:
    def last_used() -> dt.datetime | None:
        with database.transaction() as session:
            return session.get_one(ApiKey, key.id).last_used_at

    def use() -> None:
        with database.transaction() as session:
            assert authenticate(session, key.token)

    assert last_used() is None
    use()
    first = last_used()
    use()
    assert first is not None
    assert last_used() == first
    with database.transaction() as session:
        session.execute(text("UPDATE api_keys SET last_used_at = now() - interval '2 minutes'"))
    use()
    later = last_used()
    assert later is not None
    assert later >= first


def test_without_a_valid_key_nothing_is_told(api: RunningApi, subtests: pytest.Subtests) -> None:
    unknown = f"Bearer rv_{ID}_{'0' * 64}"
    for header in (None, "", "Bearer", "Basic dTpw", unknown, "Bearer x", "Bearer rv_é_1"):
        with subtests.test(header=header), api.client() as client:
            for path in ("/v1/jobs", f"/v1/jobs/job_{ID}", "/v1/workers", "/v1/webhook-endpoints"):
                answer = client.get(path, headers=[] if header is None else [(b"Authorization", header.encode())])

                status, code = problem(answer)
                assert status == 401
                assert code in ("missing_api_key", "invalid_api_key")
                assert answer.headers["www-authenticate"].startswith("Bearer")


JOB = f"/v1/jobs/job_{ID}"
ENDPOINT = f"/v1/webhook-endpoints/we_{ID}"
REQUESTS = {
    Scope.JOBS_READ: [("GET", "/v1/jobs"), ("GET", JOB), ("GET", f"{JOB}/content"),
                      ("GET", f"{JOB}/attempts"), ("GET", f"{JOB}/events"), ("GET", f"/v1/uploads/upl_{ID}")],
    Scope.JOBS_WRITE: [("POST", "/v1/jobs"), ("POST", f"{JOB}/cancel"), ("POST", f"{JOB}/retry"),
                       ("POST", "/v1/uploads")],
    Scope.WEBHOOKS: [("GET", "/v1/webhook-endpoints"), ("POST", "/v1/webhook-endpoints"),
                     ("GET", ENDPOINT), ("DELETE", ENDPOINT),
                     ("PATCH", ENDPOINT),
                     ("POST", f"{ENDPOINT}/rotate-secret"),
                     ("GET", f"{ENDPOINT}/deliveries"),
                     ("GET", f"{ENDPOINT}/deliveries/dlv_{ID}"),
                     ("POST", f"{ENDPOINT}/deliveries/dlv_{ID}/replay"),
                     ("POST", f"{ENDPOINT}/replay")],
    Scope.WORKERS: [("GET", "/v1/workers"), ("GET", "/v1/workers/gpu-1")],
    Scope.DRAIN: [("PUT", "/v1/worker-drains/gpu-1")],
}  # fmt: skip


def test_a_key_may_do_what_its_scopes_say_and_nothing_else(api: RunningApi, make_key: Callable[..., str]) -> None:
    bodies = {
        "/v1/jobs": BODY,
        "/v1/uploads": {"filename": "a"},
        "/v1/webhook-endpoints": {"url": "https://a.example/"},
        f"{ENDPOINT}/replay": {"since": "2026-03-01T06:00:00Z"},
    }
    covered = {(method, path) for requests in REQUESTS.values() for method, path in requests}
    assert len(covered) == _number_of_operations(api)
    for scope in REQUESTS:
        with api.client(make_key(scope)) as client:
            for needed, requests in REQUESTS.items():
                for method, path in requests:
                    sends_body = method == "PATCH" or (method == "POST" and path in bodies)
                    answer = client.request(method, path, json=bodies.get(path, {}) if sends_body else None)
                    if needed is scope:
                        assert answer.status_code in (200, 201, 404), (scope, method, path, answer.text)
                    else:
                        assert problem(answer) == (403, "scope_missing"), (scope, method, path)


def _number_of_operations(api: RunningApi) -> int:
    """Of those that take a key."""
    with api.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    return sum(1 for item in paths.values() for operation in item.values() if "security" in operation)


def test_the_principal_of_another_tenant_sees_its_own_only(
    api: RunningApi, client: httpx.Client, stranger: httpx.Client, database: Database
) -> None:
    client.post("/v1/jobs", json=BODY)
    with database.transaction() as session:
        factories.add_tenant(session)

    assert len(client.get("/v1/jobs").json()["data"]) == 1
    assert stranger.get("/v1/jobs").json()["data"] == []
