"""Whom a transaction acts for: set first, proved where the database asks for it, and put back."""

from __future__ import annotations

import hmac
import time
from typing import Final

from attrs import asdict, field, frozen
from sqlalchemy import Connection, text

from cogni_billing.domain.errors import InvalidInput, shown
from cogni_billing.domain.identity import TenantId

KEY_BYTES_MIN: Final = 32
KEY_BYTES_MAX: Final = 64
"""The block of SHA-256, as far as a key needs no hashing of its own."""

# The third argument ends the setting with the transaction, so a pooled connection forgets it. The
# path is set, too: one that somebody left on the connection could lend every operator of the
# scope's statements another meaning, in the next tenant's name.
# As the driver takes them: each scope starts with one.
_SET: Final = """
    SELECT pg_catalog.set_config('app.current_user_id', %(tenant)s, true),
           pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)
"""
_SET_WITH_PROOF: Final = """
    SELECT pg_catalog.set_config('app.current_user_id', %(tenant)s, true),
           pg_catalog.set_config('app.current_user_proof', %(proof)s, true),
           pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)
"""
_READ: Final = text("""
    SELECT coalesce(pg_catalog.current_setting('app.current_user_id', true), '') AS tenant,
           coalesce(pg_catalog.current_setting('app.current_user_proof', true), '') AS proof,
           pg_catalog.current_setting('search_path') AS path
""")
_RESTORE: Final = text("""
    SELECT pg_catalog.set_config('app.current_user_id', :tenant, true),
           pg_catalog.set_config('app.current_user_proof', :proof, true),
           pg_catalog.set_config('search_path', :path, true)
""")


def checked_key(given: object) -> bytes:
    """*given*, when it is a key: 32 to 64 bytes, of `secrets.token_bytes(32)` for instance.

    Raises:
        InvalidInput: it is not.
    """
    if type(given) is not bytes or not KEY_BYTES_MIN <= len(given) <= KEY_BYTES_MAX:
        what = f"{len(given)} bytes" if isinstance(given, bytes) else shown(type(given).__name__)
        raise InvalidInput("signing_key", what, f"{KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes")
    return given


def key_id(key: bytes) -> str:
    """Which key it is, without telling it."""
    return hmac.digest(key, b"cogni_billing.context_keys", "sha256").hex()[:16]


@frozen
class Context:
    """Sets the tenant of a transaction."""

    _key: bytes | None = field(default=None, repr=False)

    @property
    def signs(self) -> bool:
        """Whether it proves who set the tenant."""
        return self._key is not None

    def set(self, connection: Connection, tenant: TenantId) -> None:
        """Let the open transaction act for *tenant* from here on."""
        name = str(tenant)
        if self._key is None:
            connection.exec_driver_sql(_SET, {"tenant": name})
        else:
            proof = proved(name, self._key, int(time.time()))
            connection.exec_driver_sql(_SET_WITH_PROOF, {"tenant": name, "proof": proof})


def proved(tenant: str, key: bytes, second: int) -> str:
    """The proof that who has *key* set *tenant* at this second of the epoch: HMAC-SHA256."""
    code = hmac.digest(key, f"{tenant}.{second}".encode(), "sha256").hex()
    return f"{key_id(key)}.{second}.{code}"


@frozen
class Before:
    """Whom a host's transaction acted for, to be put back."""

    tenant: str
    proof: str
    path: str

    @classmethod
    def read(cls, connection: Connection) -> Before:
        row = connection.execute(_READ).one()
        return cls(row.tenant, row.proof, row.path)

    def restore(self, connection: Connection) -> None:
        connection.execute(_RESTORE, asdict(self))
