"""Metadata: a small, shallow JSON object, copied and frozen on entry."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias, Union

from cogni_billing.domain.errors import InvalidMetadata, shown

Json: TypeAlias = Union[bool, int, float, str, "tuple[Json, ...]", "Mapping[str, Json]", None]
"""A frozen JSON value: objects are read-only mappings, arrays are tuples."""

ENCODED_MAX: Final = 16 * 1024
DEPTH_MAX: Final = 8
_INT_BITS_MAX: Final = 2_100  # 633 digits: Python's limit for reading an int can be as low as 640
_SHOWN_MAX: Final = 32  # for the path and the value, so that a message shows 64 of the input

EMPTY: Final[Mapping[str, Json]] = MappingProxyType({})


def frozen_metadata(given: object) -> Mapping[str, Json]:
    """A deep, read-only copy of *given*. Later changes by the caller do not show in it.

    Objects and arrays nest at most 8 deep, counting the outermost object. The encoded form has at
    most 16 KiB of UTF-8, without white space. `None` means an empty object.

    Raises:
        InvalidMetadata: *given* is no mapping, or holds a value that is not JSON, NaN or infinity,
            a key that is no `str`, a NUL or a lone surrogate. Or it is too deep or too large.
    """
    if given is None:
        return EMPTY
    if not isinstance(given, Mapping):
        raise InvalidMetadata("metadata", shown(given), "a JSON object (dict)")
    copy = _Copier().freeze(given, "metadata", 1)
    assert isinstance(copy, Mapping)
    if (size := len(encoded(copy).encode())) > ENCODED_MAX:
        raise InvalidMetadata("metadata", f"{size} bytes", f"at most {ENCODED_MAX} bytes encoded")
    return copy


_ENCODER: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=dict
)


def encoded(value: Mapping[str, Json]) -> str:
    """*value* as compact JSON text."""
    return _ENCODER.encode(value)


def read_only(value: Mapping[str, Any]) -> Mapping[str, Json]:
    """*value* in its frozen form. It must be plain JSON that no other code changes."""
    return MappingProxyType({key: _read_only(item) for key, item in value.items()})


def _read_only(value: Any) -> Json:
    if isinstance(value, dict):
        return read_only(value)
    return tuple(map(_read_only, value)) if isinstance(value, (list, tuple)) else value


class _Copier:
    """Copies in one walk, and stops as soon as the encoded form must be too large."""

    def __init__(self) -> None:
        self._bytes_left = ENCODED_MAX

    def freeze(self, value: object, path: str, depth: int) -> Json:
        self._spend(2)  # the shortest value is one byte, and a comma or bracket follows
        if isinstance(value, Mapping) or type(value) in (list, tuple):
            if depth > DEPTH_MAX:
                raise InvalidMetadata(path, "one more level", f"at most {DEPTH_MAX} levels")
            if isinstance(value, Mapping):
                return self._object(value, path, depth)
            assert isinstance(value, (list, tuple))
            return tuple(self.freeze(item, path, depth + 1) for item in value)
        return self._scalar(value, path)

    def _object(self, value: Mapping[object, object], path: str, depth: int) -> Json:
        copy: dict[str, Json] = {}
        for key, item in value.items():
            name = self._text(key, path)
            inner = f"{path}.{ascii(name[:_SHOWN_MAX])[1:-1]}"
            copy[name] = self.freeze(item, inner[:_SHOWN_MAX], depth + 1)
        return MappingProxyType(copy)

    def _scalar(self, value: object, path: str) -> Json:
        if value is None or type(value) is bool:
            return value
        if type(value) is int and value.bit_length() <= _INT_BITS_MAX:
            self._spend(value.bit_length() // 4)  # a digit is less than four bits
            return value
        if type(value) is float and math.isfinite(value):
            return value
        return self._text(value, path)

    def _text(self, value: object, path: str) -> str:
        if type(value) is not str or "\0" in value:
            expected = "JSON: str without NUL, int, finite float, bool, None"
            raise InvalidMetadata(path, shown(value, _SHOWN_MAX), expected)
        self._spend(len(value))
        try:
            value.encode()
        except UnicodeEncodeError as error:
            expected = "text without lone surrogates"
            raise InvalidMetadata(path, shown(value, _SHOWN_MAX), expected) from error
        return value

    def _spend(self, size: int) -> None:
        self._bytes_left -= size
        if self._bytes_left < 0:
            raise InvalidMetadata("metadata", "more", f"at most {ENCODED_MAX} bytes encoded")
