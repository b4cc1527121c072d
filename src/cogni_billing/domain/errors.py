"""Every error the library raises, and the order in which they are decided.

BillingError
├── InvalidInput                the arguments are invalid: fix the call
│   ├── InvalidTenant
│   ├── InvalidAmount
│   ├── UnitMismatch
│   ├── InvalidReference
│   ├── InvalidMetadata
│   ├── InvalidTime
│   ├── InvalidPage
│   ├── InvalidPolicy
│   ├── InvalidPrices
│   └── InvalidSignature
├── UnknownAccount              the ledger's state refuses the call
├── InsufficientCredits
├── IdempotencyConflict
├── PaymentAlreadyClaimed
├── RecipientTaken              another intent has the address
├── UnknownPayment
├── RefundExceedsPayment
├── UnknownCharge
├── ReversalExceedsCharge
├── UnknownHold
├── HoldClosed
├── RunInProgress
├── UnknownGrant
├── GrantClosed
├── UnknownSchedule
├── UnknownRefund
├── UnknownDispute
├── UnknownAttempt
├── AttemptClosed
├── OthersRefused
├── PrivilegeRequired           the role may not do this
├── AccountInUse                the account has a balance already: adjust it
├── AccountFrozen               the account may not spend now
├── RecordsRetained             a retention rule keeps the records: erase them later
├── UnbalancedTransaction       a programming error
├── ScopeClosed
├── VerifierFailed              the verifier failed: the attempt stays pending
├── SystemTenantMissing         the installation is incomplete
├── InstallationNotReady        a check of the installation failed
├── LedgerUnavailable           the call recorded nothing: retry
│   └── OutcomeUnknown          retry with the same key
└── LedgerCorruption            an invariant is broken: stop

A refused call records nothing, except expirations and starts of grants that were already due.

If several errors apply, arguments are validated before the key, and the key before the state of
the ledger. Arguments are validated in the order drawn above. Each error has a stable `code`, and
its facts as attributes. The message shows at most 64 escaped characters of a given value.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar
from uuid import UUID

from attrs import define, frozen

if TYPE_CHECKING:
    from datetime import datetime

    from cogni_billing.domain.amounts import Amount

_SHOWN_MAX = 64


def shown(given: object, limit: int = _SHOWN_MAX) -> str:
    """Escape a given value of any size for a message, in at most *limit* characters."""
    if isinstance(given, int) and given.bit_length() > _SHOWN_MAX * 3:
        text = f"an int of {given.bit_length()} bits"
    elif isinstance(given, str):
        text = ascii(given[: limit + 1])
    elif isinstance(given, (bool, int, float, Decimal, UUID)) or given is None:
        text = ascii(given)
    else:
        text = f"a {ascii(type(given).__name__)[1:-1]}"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def escaped(text: str) -> str:
    """*text* with each character escaped that a terminal would obey or hide, such as ESC."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


class BillingError(Exception):
    """The root of every error of the library. Catch it at the outer edge of a host."""

    code: ClassVar[str] = "billing_error"

    def __str__(self) -> str:
        return escaped(self._message())

    def _message(self) -> str:
        return super().__str__()


@define
class InvalidInput(BillingError):
    """An argument breaks its rule. Names the field, the given value and the expected one."""

    code: ClassVar[str] = "invalid_input"

    field: str
    given: str
    expected: str

    def _message(self) -> str:
        return f"{self.field}: expected {self.expected}, got {self.given}"


class InvalidTenant(InvalidInput):
    """The tenant is not a usable `uuid.UUID`."""

    code: ClassVar[str] = "invalid_tenant"


class InvalidAmount(InvalidInput):
    """A number is inexact, out of bounds, too fine for its unit, or of the wrong sign."""

    code: ClassVar[str] = "invalid_amount"


class UnitMismatch(InvalidInput):
    """Amounts of different units meet where one unit is needed."""

    code: ClassVar[str] = "unit_mismatch"


class InvalidReference(InvalidInput):
    """A reference is not 1 to 255 visible ASCII characters, or is malformed evidence."""

    code: ClassVar[str] = "invalid_reference"


class InvalidMetadata(InvalidInput):
    """Metadata is not a small, shallow JSON object."""

    code: ClassVar[str] = "invalid_metadata"


class InvalidTime(InvalidInput):
    """A moment is naive, out of range or past, or the host's clock is far from the server's."""

    code: ClassVar[str] = "invalid_time"


class InvalidPage(InvalidInput):
    """A page size or cursor is invalid."""

    code: ClassVar[str] = "invalid_page"


class InvalidPolicy(InvalidInput):
    """A revenue-share policy is invalid, or no policy is in force."""

    code: ClassVar[str] = "invalid_policy"


class InvalidPrices(InvalidInput):
    """A price book is invalid."""

    code: ClassVar[str] = "invalid_prices"


class InvalidSignature(InvalidInput):
    """The webhook signature is invalid or too old."""

    code: ClassVar[str] = "invalid_signature"


@define
class UnknownAccount(BillingError):
    """The tenant has no billing account yet."""

    code: ClassVar[str] = "unknown_account"

    tenant: UUID

    def _message(self) -> str:
        return f"tenant {self.tenant} has no account; open one, or confirm a purchase first"


@define
class InsufficientCredits(BillingError):
    """The account's available credits do not cover the requested amount.

    `held` is set for a capture and a release: the credits that their hold still holds, beside the
    available ones. `overdraft_limit` is set if the call allows an overdraft, and the limit of the
    account does not allow so much.
    """

    code: ClassVar[str] = "insufficient_credits"

    required: Amount
    available: Amount
    held: Amount | None = None
    overdraft_limit: Amount | None = None

    def _message(self) -> str:
        limit = self.overdraft_limit
        within = "" if limit is None else f", and an overdraft of at most {limit}"
        if self.held is None:
            return f"{self.required} required, {self.available} available{within}"
        held = f"{self.required} required, {self.held} held"
        return f"{held}, {self.available} available beside it{within}"


@define
class AccountFrozen(BillingError):
    """An operator has frozen the account. It spends no credits until it is unfrozen."""

    code: ClassVar[str] = "account_frozen"

    since: datetime

    def _message(self) -> str:
        return f"the account is frozen since {self.since}; it can spend after `unfreeze`"


@define
class AccountInUse(BillingError):
    """The account has transactions or schedules of its own, so it gets no opening balance."""

    code: ClassVar[str] = "account_in_use"

    tenant: UUID

    def _message(self) -> str:
        return f"tenant {self.tenant} has transactions already; correct the account by `adjust`"


@frozen
class Difference:
    """A field in which a request differs from the stored one under the same key."""

    field: str
    stored: str
    requested: str

    def __str__(self) -> str:
        return escaped(f"{self.field} was {self.stored}, now {self.requested}")


@define
class IdempotencyConflict(BillingError):
    """The idempotency key was used for another request. The first outcome is unchanged."""

    code: ClassVar[str] = "idempotency_conflict"

    reference: str
    differences: tuple[Difference, ...]

    def _message(self) -> str:
        return f"{shown(self.reference)}: " + "; ".join(map(str, self.differences))


@define
class PaymentAlreadyClaimed(BillingError):
    """A payment was credited before, or is the evidence of another open attempt.

    A caller can learn that a payment was claimed, but not by which tenant.
    """

    code: ClassVar[str] = "payment_already_claimed"

    payment: str

    def _message(self) -> str:
        return f"payment {shown(self.payment)} is already claimed"


@define
class RecipientTaken(BillingError):
    """Another intent, perhaps of another tenant, has the address as its own recipient."""

    code: ClassVar[str] = "recipient_taken"

    recipient: str

    def _message(self) -> str:
        return f"address {shown(self.recipient)} is of another intent; use a fresh one"


@define
class UnknownPayment(BillingError):
    """The tenant has no such payment."""

    code: ClassVar[str] = "unknown_payment"

    payment: str

    def _message(self) -> str:
        return f"no payment {shown(self.payment)} for this tenant"


@define
class RefundExceedsPayment(BillingError):
    """The requested refund is larger than the rest of the payment."""

    code: ClassVar[str] = "refund_exceeds_payment"

    requested: Amount
    remaining: Amount
    disputes: tuple[str, ...] = ()
    """The references of the payment's lost disputes, which returned a part of it."""

    def _message(self) -> str:
        lost = "".join(f"; dispute {shown(each)} is lost" for each in self.disputes)
        return f"{self.requested} requested, {self.remaining} can still be refunded{lost}"


@define
class UnknownCharge(BillingError):
    """The tenant has no such charge or capture."""

    code: ClassVar[str] = "unknown_charge"

    charge: str

    def _message(self) -> str:
        return f"no charge {shown(self.charge)} for this tenant"


@define
class ReversalExceedsCharge(BillingError):
    """The credits to give back are more than the rest of the charge, or the rest is zero."""

    code: ClassVar[str] = "reversal_exceeds_charge"

    required: Amount
    remaining: Amount

    def _message(self) -> str:
        return f"{self.required} required, {self.remaining} of the charge can still be given back"


@define
class UnknownHold(BillingError):
    """The tenant has no such hold."""

    code: ClassVar[str] = "unknown_hold"

    hold_id: UUID

    def _message(self) -> str:
        return f"no hold {self.hold_id} for this tenant"


@define
class HoldClosed(BillingError):
    """The hold was captured or released before, or has expired."""

    code: ClassVar[str] = "hold_closed"

    hold_id: UUID
    state: str

    def _message(self) -> str:
        return f"hold {self.hold_id} is {self.state}"


@define
class RunInProgress(BillingError):
    """Another metered run opened the hold of this reference, and may still be at work."""

    code: ClassVar[str] = "run_in_progress"

    reference: str
    hold_id: UUID

    def _message(self) -> str:
        return (
            f"run {shown(self.reference)} has begun before; leave it alone, "
            f"or use another reference once hold {self.hold_id} has ended"
        )


@define
class UnknownGrant(BillingError):
    """The tenant has no such grant."""

    code: ClassVar[str] = "unknown_grant"

    grant_id: UUID

    def _message(self) -> str:
        return f"no grant {self.grant_id} for this tenant"


@define
class GrantClosed(BillingError):
    """The grant has expired or was voided, so it cannot be extended."""

    code: ClassVar[str] = "grant_closed"

    grant_id: UUID
    expired_at: datetime

    def _message(self) -> str:
        return f"grant {self.grant_id} ended at {self.expired_at}; grant the credits anew"


@define
class UnknownSchedule(BillingError):
    """The tenant has no such schedule of grants."""

    code: ClassVar[str] = "unknown_schedule"

    schedule_id: UUID

    def _message(self) -> str:
        return f"no schedule {self.schedule_id} for this tenant"


@define
class UnknownRefund(BillingError):
    """The tenant has no refund of this payment under this reference."""

    code: ClassVar[str] = "unknown_refund"

    reference: str
    payment: str

    def _message(self) -> str:
        return f"no refund {shown(self.reference)} of {shown(self.payment)}; record it first"


@define
class UnknownDispute(BillingError):
    """The tenant has no dispute of this payment under this reference."""

    code: ClassVar[str] = "unknown_dispute"

    reference: str
    payment: str

    def _message(self) -> str:
        return f"no dispute {shown(self.reference)} of {shown(self.payment)}; open it first"


@define
class UnknownAttempt(BillingError):
    """The tenant has no such payment attempt."""

    code: ClassVar[str] = "unknown_attempt"

    attempt_id: UUID

    def _message(self) -> str:
        return f"no payment attempt {self.attempt_id} for this tenant"


@define
class AttemptClosed(BillingError):
    """The payment attempt cannot move from its present state to the requested one."""

    code: ClassVar[str] = "attempt_closed"

    attempt_id: UUID
    state: str

    def _message(self) -> str:
        return f"payment attempt {self.attempt_id} is {self.state}"


@define
class OthersRefused(BillingError):
    """The batch was all-or-nothing and another request in it failed."""

    code: ClassVar[str] = "others_refused"

    def _message(self) -> str:
        return "not recorded; fix the request of this tenant that was refused, and call again"


@define
class PrivilegeRequired(BillingError):
    """The scope, or the role of its connection, may not do this."""

    code: ClassVar[str] = "privilege_required"

    operation: str

    def _message(self) -> str:
        return f"not allowed: {self.operation}"


@define
class RecordsRetained(BillingError):
    """A retention rule keeps the tenant's records until a moment. No text was erased."""

    code: ClassVar[str] = "records_retained"

    until: datetime

    def _message(self) -> str:
        return f"the retention rule keeps these records until {self.until}; erase them later"


@define
class UnbalancedTransaction(BillingError):
    """The transaction is invalid: its postings do not sum to zero in each unit, a field does not
    fit its kind, or its kind is unknown.
    """

    code: ClassVar[str] = "unbalanced_transaction"

    problem: str
    excess: tuple[Amount, ...] = ()

    def _message(self) -> str:
        return ", ".join([self.problem, *map(str, self.excess)])


@define
class ScopeClosed(BillingError):
    """The scope has ended, or a call in it failed and the scope must be rolled back."""

    code: ClassVar[str] = "scope_closed"

    reason: str

    def _message(self) -> str:
        return f"the scope is closed: {self.reason}"


@define
class VerifierFailed(BillingError):
    """The verifier raised an error, or returned an invalid finding.

    Submitted evidence stays recorded, and the attempt stays pending.
    """

    code: ClassVar[str] = "verifier_failed"

    attempt_id: UUID
    reason: str

    def _message(self) -> str:
        return f"verifying payment attempt {self.attempt_id} failed: {self.reason}"


@define
class SystemTenantMissing(BillingError):
    """The system tenant or one of its accounts is not in the database."""

    code: ClassVar[str] = "system_tenant_missing"

    missing: str

    def _message(self) -> str:
        return f"the system tenant is incomplete: {self.missing}"


@define
class InstallationNotReady(BillingError):
    """A check of the roles, the settings or the safeguards failed. `problem` names the fix."""

    code: ClassVar[str] = "installation_not_ready"

    check: str
    problem: str

    def _message(self) -> str:
        return f"{self.check}: {self.problem}"


@define
class LedgerUnavailable(BillingError):
    """The database cannot serve the call now. The call recorded nothing.

    `sqlstate` is PostgreSQL's code, or `None` if the connection itself failed.
    """

    code: ClassVar[str] = "ledger_unavailable"

    reason: str
    sqlstate: str | None = None

    def _message(self) -> str:
        return self.reason if self.sqlstate is None else f"{self.reason} [{self.sqlstate}]"


class OutcomeUnknown(LedgerUnavailable):
    """The connection failed after COMMIT was sent: all of the work is recorded, or no part of it.

    It is safe to call again with the same idempotency key. The second call returns the outcome.
    """

    code: ClassVar[str] = "outcome_unknown"


@define
class LedgerCorruption(BillingError):
    """An invariant is broken. The library repairs no record: stop, and examine the ledger."""

    code: ClassVar[str] = "ledger_corruption"

    finding: str

    def _message(self) -> str:
        return self.finding


def most_severe(errors: Iterable[BillingError]) -> BillingError:
    """The first error that needs an operator, else one that may have had an effect, else any."""
    return min(errors, key=_severity)


def _severity(error: BillingError) -> int:
    if isinstance(error, LedgerCorruption):
        return 0
    return 1 if isinstance(error, OutcomeUnknown) else 2


def given_twice(given_id: UUID) -> LedgerCorruption:
    """The error for an id that the id source returned before."""
    return LedgerCorruption(f"the id source gave {given_id} twice")


def unknown_kind(kind: object) -> UnbalancedTransaction:
    """The error for a kind of transaction that a table or a branch does not handle."""
    return UnbalancedTransaction(
        f"unknown transaction kind {shown(str(kind))}; add its rules and handle it"
    )
