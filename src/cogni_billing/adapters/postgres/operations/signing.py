"""Keys of signed contexts: turn signing on and off, and change keys."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import Connection, Engine, text

from cogni_billing.adapters.postgres.contexts import CONTEXT_KEYS
from cogni_billing.adapters.postgres.operations.administration import administrative_transaction
from cogni_billing.adapters.postgres.operations.provisioning import Provision, require_migrator
from cogni_billing.domain.errors import BillingError
from cogni_billing.domain.signing import KEY_BYTES_MAX, checked_key, key_id

_INNER_PAD: Final = 0x36
_OUTER_PAD: Final = 0x5C


def sign_contexts(migrator_engine: Engine, keys: Iterable[bytes]) -> None:
    """Require a proof by one of *keys* for every tenant that a session sets.

    With row-level security alone, a session that runs injected SQL can set another tenant. With
    signed contexts a unit of work proves that it set the tenant itself: HMAC-SHA256 over the tenant
    and the time, with a key that it shares with the database. A proof that is older than five
    minutes when a transaction starts is invalid. So the clocks of hosts and of the server must not
    differ by more.

    To change the key, give the new and the old key, make every host use the new one, and give the
    new one alone. Without any key, contexts need no proof again. A second call changes nothing.

    Args:
        migrator_engine: Connects as the migrator role.
        keys: Each of 32 to 64 random bytes, as of `secrets.token_bytes(32)`. Empty to turn it off.

    Raises:
        InvalidInput: a key is invalid.
        PrivilegeRequired: it connects as another role.
        LedgerUnavailable: the database is not provisioned and migrated, or cannot be reached.
    """
    checked = list(dict.fromkeys(map(checked_key, keys)))
    try:
        with administrative_transaction(migrator_engine) as connection:
            require_migrator(connection, Provision.read(connection).roles)
            _replace(connection, checked)
    except BillingError as error:
        # Without its cause: the server's message can show the row, and so the key.
        raise error from None


def _replace(connection: Connection, keys: list[bytes]) -> None:
    connection.execute(_FORGET)
    for age, key in enumerate(keys):
        connection.execute(_KEEP, _prepared(key) | {"age": age})


_FORGET: Final = text("DELETE FROM cogni_billing.context_keys")
_KEEP: Final = text("""
    INSERT INTO cogni_billing.context_keys (id, inner_key, outer_key, added_at)
    VALUES (:id, :inner, :outer, now() - :age * interval '1 second')
""")


def _prepared(key: bytes) -> dict[str, object]:
    block = key.ljust(KEY_BYTES_MAX, b"\0")
    inner, outer = (bytes(byte ^ pad for byte in block) for pad in (_INNER_PAD, _OUTER_PAD))
    return {"id": key_id(key, CONTEXT_KEYS), "inner": inner, "outer": outer}
