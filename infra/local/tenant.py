"""The tenant of the local stack and its API key, which stays the same from one start to the next.

Knows the key functions of the API and one private file.
"""

import contextlib
from pathlib import Path

from sqlalchemy import select

from api.keys import Scope, authenticate, create_key, create_tenant
from infra.local.state import write_private
from models.database import Database, create_database_engine
from models.tenant import Tenant

TENANT = "default"


def local_api_key(database_url: str, *, keep_in: Path) -> str:
    """The kept key if this database knows it, else a new one, kept from now on."""
    file = keep_in / "api-key"
    with contextlib.closing(
        Database(create_database_engine(database_url, application_name="realvideo-setup", pool_size=1))
    ) as database:
        with database.transaction() as session:
            if file.exists() and authenticate(session, file.read_text()) is not None:
                return file.read_text()
            tenant = session.scalars(select(Tenant).where(Tenant.name == TENANT)).one_or_none()
            tenant = tenant or create_tenant(session, name=TENANT)
            token = create_key(session, tenant_id=tenant.id, name="local stack", scopes=[Scope.ADMIN]).token
        write_private(file, token)
        return token
