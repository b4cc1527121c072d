"""Context of a call: proof of the tenant, and the tenant that the host's transaction had before."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from typing import Final

from attrs import field, frozen

from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.signing import checked_key, key_id

CONTEXT_KEYS: Final = b"cogni_billing.context_keys"
"""The purpose of these keys, for `key_id`."""

_READ: Final = "SELECT coalesce(pg_catalog.current_setting('app.current_user_id', true), '')"
_RESTORE: Final = "SELECT pg_catalog.set_config('app.current_user_id', %s, true)"


@frozen
class Context:
    """Proves the tenant of a call, if it has a key."""

    _key: bytes | None = field(default=None, repr=False)

    @classmethod
    def of(cls, key: object) -> Context:
        """Build a context with the key that a caller gave, or without a key for `None`.

        Raises:
            InvalidInput: *key* is no key.
        """
        return cls() if key is None else cls(checked_key(key))

    @property
    def signs(self) -> bool:
        """True if it has a key."""
        return self._key is not None

    @property
    def prepare(self) -> bool | None:
        """Return psycopg's `prepare` option for calls: `False` with a key.

        A call with a proof is never prepared by name. Injected SQL could put a statement of its own
        under that name, and collect the proofs of later calls.
        """
        return False if self.signs else None

    def proof(self, tenant: TenantId) -> str | None:
        """Compute the proof for a call that is made now. Returns `None` without a key."""
        return None if self._key is None else proved(str(tenant), self._key, int(time.time()))


def proved(tenant: str, key: bytes, second: int) -> str:
    """Compute the proof that a holder of *key* set *tenant* at this second of the epoch."""
    code = hmac.digest(key, f"{tenant}.{second}".encode(), "sha256").hex()
    return f"{key_id(key, CONTEXT_KEYS)}.{second}.{code}"


@frozen
class Before:
    """The tenant that a host's transaction acted for, to be restored."""

    tenant: str

    @classmethod
    def read(cls, execute: Callable[[str, tuple[object, ...]], str]) -> Before:
        return cls(execute(_READ, ()))

    def restore(self, execute: Callable[[str, tuple[object, ...]], str]) -> None:
        execute(_RESTORE, (self.tenant,))
