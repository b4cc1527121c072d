"""Keys of HMAC-SHA256, which the host keeps."""

from __future__ import annotations

import hmac
from typing import Final

from cogni_billing.domain.errors import InvalidInput, shown

KEY_BYTES_MIN: Final = 32
KEY_BYTES_MAX: Final = 64
"""The block size of SHA-256. A longer key would have to be hashed first."""


def key_id(key: bytes, purpose: bytes) -> str:
    """Compute the id of a key for one purpose. The id does not reveal the key."""
    return hmac.digest(key, purpose, "sha256").hex()[:16]


def checked_key(given: object, field: str = "signing_key") -> bytes:
    """Validate a key of 32 to 64 bytes, such as `secrets.token_bytes(32)`.

    Raises:
        InvalidInput: *given* is no such key.
    """
    if type(given) is not bytes or not KEY_BYTES_MIN <= len(given) <= KEY_BYTES_MAX:
        what = f"{len(given)} bytes" if isinstance(given, bytes) else shown(type(given).__name__)
        raise InvalidInput(field, what, f"{KEY_BYTES_MIN} to {KEY_BYTES_MAX} bytes")
    return given
