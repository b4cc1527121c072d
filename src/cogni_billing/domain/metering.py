"""Meters: costs that come in small parts are added up, and captured together."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from attrs import define, field

from cogni_billing.domain.amounts import ZERO, Amount, credits_from_zero, positive_credits
from cogni_billing.domain.errors import (
    InsufficientCredits,
    InvalidInput,
    InvalidReference,
    InvalidTime,
    RunInProgress,
    ScopeClosed,
    shown,
)
from cogni_billing.domain.hold_changes import CaptureRequest
from cogni_billing.domain.holds import Hold, HoldRequest
from cogni_billing.domain.identity import TenantId, reference, tenant_id
from cogni_billing.domain.metadata import EMPTY
from cogni_billing.domain.timestamps import Expiry, lifetime
from cogni_billing.domain.transactions import Overrun

EVERY_DEFAULT: Final = timedelta(seconds=5)
REFERENCE_MAX: Final = 240
"""The keys of captures and extensions add a number, within the 255 characters of a key."""
TTL_MAX: Final = timedelta(days=30)
"""A run renews its hold, so a longer time would only keep the credits of a killed process."""
_RENEWALS_PER_TTL: Final = 3


def _reference(given: object) -> str:
    name = reference(given)
    if len(name) > REFERENCE_MAX:
        raise InvalidReference("reference", shown(name), f"at most {REFERENCE_MAX} characters")
    return name


def _limit(given: object) -> Amount:
    return positive_credits(given, "limit")


def _ttl(given: object) -> timedelta:
    ttl = lifetime(given, "ttl")
    if ttl > TTL_MAX:
        raise InvalidTime("ttl", shown(str(ttl)), f"at most {TTL_MAX.days} days")
    return ttl


def _every(given: object) -> Amount | timedelta:
    if isinstance(given, Amount):
        return positive_credits(given, "every")
    if isinstance(given, timedelta) and given > timedelta(0):
        return given
    raise InvalidInput("every", shown(given), "an amount in CREDIT or a timedelta, above zero")


@define(kw_only=True)
class Meter:
    """The arguments of `Billing.metered`, and the state of the run.

    A cost is pending until a capture of it has succeeded. A capture whose outcome is unknown is
    called again with its key and its amount, also if more costs were added since.
    """

    tenant: TenantId = field(converter=tenant_id)
    limit: Amount = field(converter=_limit)
    reference: str = field(converter=_reference)
    ttl: timedelta = field(converter=_ttl)
    every: Amount | timedelta = field(converter=_every)
    charged: Amount = ZERO
    pending: Amount = ZERO
    _hold_id: UUID | None = None
    _sent: Amount | None = None
    """The amount of the capture that was called last, until it succeeds."""
    _captures: int = 0
    _renewals: int = 0
    _captured_at: datetime = field(init=False)
    _renewed_at: datetime = field(init=False)

    @property
    def remaining(self) -> Amount:
        """The credits of the limit that are not used yet."""
        return self.limit - self.charged - self.pending

    def running(self) -> UUID:
        """The id of the run's hold.

        Raises:
            ScopeClosed: the run has not begun, or has ended.
        """
        if self._hold_id is None:
            raise ScopeClosed("add costs inside the `with` statement of the run")
        return self._hold_id

    def hold_request(self) -> HoldRequest:
        """The hold of the whole limit."""
        return HoldRequest(
            tenant=self.tenant,
            amount=self.limit,
            reference=self.reference,
            metadata=EMPTY,
            expiry=Expiry(expires_in=self.ttl),
        )

    def begin(self, hold: Hold) -> None:
        """Begin the run with its hold.

        Raises:
            RunInProgress: another run has opened the hold.
        """
        if hold.replayed:
            raise RunInProgress(self.reference, hold.id)
        self._hold_id = hold.id
        self._captured_at = self._renewed_at = hold.opened_at

    def add(self, amount: object) -> None:
        """Add a cost.

        Raises:
            InvalidAmount, UnitMismatch: *amount* is no amount in CREDIT of zero or more.
            InsufficientCredits: less remains of the limit. The cost is not added.
            ScopeClosed: the run has not begun, or has ended.
        """
        self.running()
        cost = credits_from_zero(amount)
        if cost > self.remaining:
            raise InsufficientCredits(cost, self.remaining)
        self.pending += cost

    def capture_is_due(self, now: datetime) -> bool:
        if isinstance(self.every, Amount):
            return self.pending >= self.every
        return not self.pending.is_zero and now - self._captured_at >= self.every

    def renewal_is_due(self, now: datetime) -> bool:
        return now - self._renewed_at >= self.ttl / _RENEWALS_PER_TTL

    def capture_request(self, *, final: bool = False) -> CaptureRequest:
        """The capture of the pending costs, or the earlier one whose outcome is unknown."""
        if self._sent is None:
            self._sent = self.pending
        return CaptureRequest(
            tenant=self.tenant,
            hold_id=self.running(),
            amount=self._sent,
            reference=f"{self.reference}/{self._captures + 1}",
            metadata=EMPTY,
            final=final,
            overrun=Overrun.REFUSE,
        )

    @property
    def capture_is_unknown(self) -> bool:
        """True if a capture was called, and its outcome is unknown."""
        return self._sent is not None

    def captured(self, amount: Amount, now: datetime) -> None:
        """Note that a capture succeeded."""
        self.charged += amount
        self.pending -= amount
        self._sent = None
        self._captures += 1
        self._captured_at = now

    @property
    def renewal_reference(self) -> str:
        """The key of the next extension."""
        return f"{self.reference}/{self._renewals + 1}"

    def renewed(self, now: datetime) -> None:
        """Note that the hold was extended by the whole time."""
        self._renewals += 1
        self._renewed_at = now

    def end(self) -> None:
        """End the run. It accepts no more costs."""
        self._hold_id = None
