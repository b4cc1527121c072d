"""Versions that follow one another: share policies and price books."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Protocol, TypeVar

from cogni_billing.domain.errors import InvalidInput, shown


class Version(Protocol):
    """A version of something, in force from a moment on."""

    @property
    def version(self) -> str: ...
    @property
    def effective_from(self) -> datetime: ...


VersionT = TypeVar("VersionT", bound=Version)


def in_succession(
    given: object, kind: type[VersionT], wrong: type[InvalidInput], field: str, noun: str
) -> tuple[VersionT, ...]:
    """*given* as one or more *kind*, each with a later start and another version.

    Raises:
        InvalidInput: as *wrong*. Two are out of order, or have the same start or version.
    """
    versions = tuple(given) if isinstance(given, (tuple, list)) else ()
    if not versions or not all(isinstance(each, kind) for each in versions):
        raise wrong(field, shown(given), f"one or more {kind.__name__}")
    for earlier, later in pairwise(each.effective_from for each in versions):
        if later <= earlier:
            raise wrong("effective_from", str(later), f"a moment after {earlier}")
    if len({each.version for each in versions}) < len(versions):
        raise wrong("version", "a version twice", f"a unique version for each {noun}")
    return versions
