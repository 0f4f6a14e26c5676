"""A real API server over real Postgres and Valkey, on a port of loopback, and clients for it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from api.keys import Scope, create_key
from api.settings import ApiSettings
from models.database import Database
from models.tenant import Tenant
from tests import factories
from tests.integration.api.pages import hidden
from tests.integration.api.running import RunningApi, api_settings, running_api


@pytest.fixture
def settings(database_url: str, broker_url: str, tmp_path: Path) -> ApiSettings:
    return api_settings(database_url, broker_url, tmp_path / "objects")


@pytest.fixture
def api(settings: ApiSettings) -> Iterator[RunningApi]:
    with running_api(settings) as running:
        yield running


@pytest.fixture
def make_key(database: Database, tenant: Tenant) -> Callable[..., str]:
    """`make_key(*scopes)`: a new key of `tenant`, as clients send it."""

    def make(*scopes: Scope, tenant_id: str = tenant.id) -> str:
        with database.transaction() as session:
            return create_key(session, tenant_id=tenant_id, name="test", scopes=scopes or [Scope.ADMIN]).token

    return make


@pytest.fixture
def client(api: RunningApi, make_key: Callable[..., str]) -> Iterator[httpx.Client]:
    """Requests with an admin key of `tenant`."""
    with api.client(make_key()) as client:
        yield client


@pytest.fixture
def stranger(api: RunningApi, make_key: Callable[..., str], database: Database) -> Iterator[httpx.Client]:
    """Requests with an admin key of another tenant."""
    with database.transaction() as session:
        other = factories.add_tenant(session)
    with api.client(make_key(tenant_id=other.id)) as client:
        yield client


@pytest.fixture
def browser(api: RunningApi) -> Iterator[httpx.Client]:
    """Keeps cookies, follows nothing."""
    with api.client() as browser:
        yield browser


@pytest.fixture
def log_in(browser: httpx.Client, make_key: Callable[..., str]) -> Callable[..., httpx.Client]:
    """`log_in(*scopes)`: the browser, logged in by a new key with these scopes."""

    def log_in(*scopes: Scope, **owner: str) -> httpx.Client:
        browser.cookies.clear()
        nonce = hidden(browser.get("/"), "nonce")
        browser.post("/login", data={"nonce": nonce, "key": make_key(*scopes, **owner)})
        return browser

    return log_in
