"""Databases for experiments: on an embedded server, or on the server of a URL."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from attrs import frozen
from sqlalchemy import URL, create_engine, text

from cogni_billing.adapters.postgres.connections import checked_url, is_pooled
from cogni_billing.adapters.postgres.failures import connecting
from cogni_billing.adapters.postgres.operations.migrating import migrate
from cogni_billing.adapters.postgres.operations.provisioning import provision
from cogni_billing.adapters.postgres.operations.roles import Roles, quoted
from cogni_billing.domain.errors import LedgerUnavailable

SPENDER: Final = "app_spender"


class Sandbox(ABC):
    """A database with the ledger, and the URLs that the roles connect with."""

    @property
    @abstractmethod
    def administrator(self) -> URL:
        """Return a URL that connects as the administrator."""

    @abstractmethod
    def role(self, name: str) -> URL:
        """Return a URL that connects as the role of this name."""

    @property
    def admin_url(self) -> str:
        """The URL of the administrator, for tests."""
        return self.administrator.render_as_string(hide_password=False)

    def url(self, role: str) -> str:
        """The URL of a role: "app_user", "app_spender", "app_service" or "app_migrator"."""
        return self.role(role).render_as_string(hide_password=False)

    def install(self, *, test_database: bool) -> None:
        """Provision and migrate, with the default role names and a spender."""
        roles = Roles(spender=SPENDER)
        admin = create_engine(self.administrator)
        provision(admin, roles, test_database=test_database)
        admin.dispose()
        migrator = create_engine(self.role(roles.migrator))
        migrate(migrator)
        migrator.dispose()


@frozen
class GivenDatabase(Sandbox):
    """A database on an existing server.

    The roles need no password: an administrator's session acts as the role from its start.
    """

    administrator: URL

    def role(self, name: str) -> URL:
        return self.administrator.update_query_dict({"options": f"-crole={name}"})


@contextmanager
def temporary_database(admin_url: str | URL) -> Iterator[GivenDatabase]:
    """Create a database with the ledger on the server of *admin_url*, and drop it at the end.

    The library's missing roles are created on that server, and stay.

    Args:
        admin_url: Connects as an administrator that may create databases and roles.

    Raises:
        InvalidInput: *admin_url* is not the URL of a PostgreSQL database.
        LedgerUnavailable: the server cannot be reached, is behind a pooler, or is older than
            PostgreSQL 14.
        PrivilegeRequired: the administrator lacks a privilege.
    """
    url = checked_url("admin_url", admin_url)
    name = f"cogni_billing_{secrets.token_hex(8)}"
    server = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with connecting(), server.connect() as connection:
            if is_pooled(connection):
                raise LedgerUnavailable("the server is behind a pooler; connect directly")
            connection.execute(text(f"CREATE DATABASE {quoted(name)}"))
        try:
            database = GivenDatabase(url.set(database=name))
            database.install(test_database=True)
            yield database
        finally:
            with connecting(), server.connect() as connection:
                connection.execute(text(f"DROP DATABASE {quoted(name)} WITH (FORCE)"))
    finally:
        server.dispose()
