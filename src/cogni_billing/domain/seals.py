"""Seals: a keyed chain over each tenant's transactions, which no owner of the database can forge.

A tenant's chain starts with its id. Each transaction, in the order of positions, adds a link: the
HMAC-SHA256, under the host's key, of the link before it and of the transaction's record. A seal is
the link at one position. It covers every transaction up to there, and proves that the ledger had
that many. The key and the seals are kept outside of the database.
"""

from __future__ import annotations

import hmac
import json
import re
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import Final, Self, TypeAlias
from uuid import UUID

from attrs import field, frozen

from cogni_billing.domain.errors import InvalidInput, shown
from cogni_billing.domain.identity import TenantId, tenant_id
from cogni_billing.domain.metadata import Json
from cogni_billing.domain.signing import checked_key, key_id
from cogni_billing.domain.verification import Invariant, Violation

SEAL_EVERY: Final = 1000
"""The most transactions from one seal to the next, and in one query of the ledger."""

_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_FIELDS: Final = ("tenant", "position", "mac", "key")
_MAC: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PURPOSE: Final = b"cogni_billing.seals"
_KEY: Final = re.compile(r"[0-9a-f]{16}", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_POSITION_MAX: Final = 2**63 - 1


@frozen
class Entry:
    """A recorded transaction: its position among its tenant's, and its record.

    The record has every column that never changes. A column without a value is omitted or `None`.
    So a column that a later version adds does not change the seals of older rows.
    """

    position: int
    record: Mapping[str, Json]

    def encoded(self) -> bytes:
        """Encode the entry. Equal entries have equal bytes."""
        record = {name: value for name, value in self.record.items() if value is not None}
        return _ENCODER.encode([self.position, record]).encode()


@frozen
class Piece:
    """A range of consecutive positions of one tenant, at most `SEAL_EVERY`."""

    tenant: TenantId
    positions: range


History = Callable[[Sequence[Piece]], Sequence[Sequence[Entry]]]
"""Reads the transactions of each piece, in order."""


@frozen
class Seal:
    """A tenant's chain at one position, and the id of the key, which does not reveal the key.

    Raises:
        InvalidInput: a field is invalid.
    """

    tenant: TenantId
    position: int
    mac: str
    key: str

    def __attrs_post_init__(self) -> None:
        tenant_id(self.tenant)
        if type(self.position) is not int or not 1 <= self.position <= _POSITION_MAX:
            raise InvalidInput("position", shown(self.position), "a whole number from 1")
        for name, value, pattern in (("mac", self.mac, _MAC), ("key", self.key, _KEY)):
            if type(value) is not str or not pattern.fullmatch(value):
                raise InvalidInput(name, shown(value), "hexadecimal digits, as `seal` wrote them")

    def to_dict(self) -> dict[str, str | int]:
        """Return the seal as JSON."""
        return {
            "tenant": str(self.tenant),
            "position": self.position,
            "mac": self.mac,
            "key": self.key,
        }

    @classmethod
    def from_dict(cls, given: object) -> Self:
        """Parse a seal that `to_dict` returned.

        Raises:
            InvalidInput: *given* is no seal.
        """
        if not isinstance(given, dict) or set(given) != set(_FIELDS):
            raise InvalidInput("seal", shown(given), f"the fields {', '.join(_FIELDS)}")
        tenant = given["tenant"]
        if type(tenant) is not str or not _UUID.fullmatch(tenant):
            raise InvalidInput("tenant", shown(tenant), "a UUID")
        return cls(TenantId(UUID(tenant)), given["position"], given["mac"], given["key"])


@frozen
class Seals:
    """Seals of one key: the MACs of each tenant by position, in the order of positions."""

    _key: bytes = field(repr=False)
    _of: Mapping[TenantId, Mapping[int, Sequence[str]]]

    @classmethod
    def of(cls, seals: object, key: object) -> Self:
        """Validate the seals and the key that a caller gave.

        Raises:
            InvalidInput: *key* is no key, or not the key of these seals, or *seals* are no seals.
        """
        checked = checked_key(key, "key")
        given = _listed(seals)
        for seal in given:
            if seal.key != (ours := key_id(checked, _PURPOSE)):
                raise InvalidInput("key", f"the key {ours}", f"the key {seal.key} of these seals")
        of = defaultdict[TenantId, dict[int, list[str]]](dict)
        for seal in sorted(given, key=lambda seal: (seal.tenant, seal.position)):
            of[seal.tenant].setdefault(seal.position, []).append(seal.mac)
        return cls(checked, dict(of))

    def added(self, counts: Mapping[TenantId, int], history: History) -> Iterator[Seal]:
        """Seal the transactions after the last seal of each tenant.

        A tenant is sealed up to a gap in its positions, which `verify` reports.

        Args:
            counts: The number of transactions of each tenant.
            history: Reads the transactions.
        """
        plan = ((t, (max(self._of.get(t, (0,))), count)) for t, count in counts.items())
        done = set[TenantId]()
        for tenant, parts in _read(_pieces(plan, done), history):
            link = self._last_link(tenant)
            for positions, entries in parts:
                if [entry.position for entry in entries] != list(positions):
                    done.add(tenant)
                    break
                link = self._linked(link, entries)
                yield Seal(tenant, positions[-1], link.hex(), key_id(self._key, _PURPOSE))

    def violations(self, history: History) -> Iterator[Violation]:
        """Yield each tenant's first positions that differ from their seal."""
        plan = ((tenant, (0, *macs)) for tenant, macs in self._of.items())
        done = set[TenantId]()
        for tenant, parts in _read(_pieces(plan, done), history):
            for violation in self._violations_of(tenant, parts):
                done.add(tenant)
                yield violation

    def _violations_of(self, tenant: TenantId, parts: Iterable[_Part]) -> Iterator[Violation]:
        """Yield at most one violation, because every later link differs too."""
        link, sealed, of = self._first_link(tenant), 0, self._of[tenant]
        for positions, entries in parts:
            link = self._linked(link, entries)
            missing = sorted(set(positions) - {entry.position for entry in entries})
            macs = of.get(positions[-1], ())
            if missing or any(mac != link.hex() for mac in macs):
                last = min(position for position in of if position >= positions[-1])
                where = {"tenant": str(tenant), "positions": f"{sealed + 1}-{last}"}
                detail = f"none at position {missing[0]}" if missing else "changed since"
                yield Violation(Invariant.TRANSACTIONS_MATCH_THEIR_SEAL, where, detail)
                return
            sealed = positions[-1] if macs else sealed

    def _last_link(self, tenant: TenantId) -> bytes:
        macs = self._of.get(tenant)
        return bytes.fromhex(macs[max(macs)][-1]) if macs else self._first_link(tenant)

    def _first_link(self, tenant: TenantId) -> bytes:
        return hmac.digest(self._key, b"cogni_billing.seals.1:" + tenant.bytes, "sha256")

    def _linked(self, link: bytes, entries: Iterable[Entry]) -> bytes:
        for entry in entries:
            link = hmac.digest(self._key, link + entry.encoded(), "sha256")
        return link


_Part: TypeAlias = tuple[range, Sequence[Entry]]


def _pieces(
    plan: Iterable[tuple[TenantId, Iterable[int]]], done: Container[TenantId]
) -> Iterator[Piece]:
    """Split the positions between a tenant's seals into pieces, until the tenant is done."""
    for tenant, ends in plan:
        for after, last in pairwise(ends):
            for first in range(after + 1, last + 1, SEAL_EVERY):
                if tenant in done:
                    break
                yield Piece(tenant, range(first, min(first + SEAL_EVERY, last + 1)))


def _read(pieces: Iterable[Piece], history: History) -> Iterator[tuple[TenantId, Iterator[_Part]]]:
    """Read the positions and transactions of each piece, by tenant. Small pieces are read
    together.
    """
    read = (
        (piece, entries)
        for batch in _batches(pieces)
        for piece, entries in zip(batch, history(batch), strict=True)
    )
    for tenant, parts in groupby(read, key=lambda part: part[0].tenant):
        yield tenant, ((piece.positions, entries) for piece, entries in parts)


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch, size = list[Piece](), 0
    for piece in pieces:
        if size + len(piece.positions) > SEAL_EVERY:
            yield batch
            batch, size = [], 0
        batch.append(piece)
        size += len(piece.positions)
    if batch:
        yield batch


def _listed(given: object) -> list[Seal]:
    if isinstance(given, Iterable):
        listed = list(given)
        if all(isinstance(seal, Seal) for seal in listed):
            return listed
    raise InvalidInput("seals", shown(given), "an iterable of Seal")
