"""The calls of a host. `application` makes each call a case, run here on a unit of work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from cogni_billing.application import (
    adjusting,
    finding,
    freezing,
    granting,
    maintenance,
    minting,
    opening,
    overdrafts,
    reading,
    reversals,
    scheduling,
    spending,
)
from cogni_billing.application.cases import Case, Result, checked_unit_of_work
from cogni_billing.application.context import Context
from cogni_billing.application.metering import Metered
from cogni_billing.domain.accounts import Account
from cogni_billing.domain.adjustments import AdjustmentRequest
from cogni_billing.domain.amounts import ZERO, Amount
from cogni_billing.domain.batches import Outcome
from cogni_billing.domain.charges import Charge
from cogni_billing.domain.disputes import Dispute, DisputeRequest
from cogni_billing.domain.folding import Folding
from cogni_billing.domain.found_payments import FoundPayment
from cogni_billing.domain.giving_back import GiveBackRequest
from cogni_billing.domain.grants import (
    PRIORITY_DEFAULT,
    Grant,
    GrantExtension,
    GrantRequest,
    Lot,
    VoidRequest,
)
from cogni_billing.domain.hold_changes import CaptureRequest
from cogni_billing.domain.holds import Hold, HoldPage, HoldRequest
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.metering import EVERY_DEFAULT, Meter
from cogni_billing.domain.openings import OpeningGrant, OpeningRequest
from cogni_billing.domain.policies import Policies, Shortfall
from cogni_billing.domain.prices import Prices
from cogni_billing.domain.purchases import Purchase
from cogni_billing.domain.receipts import (
    AdjustmentReceipt,
    CaptureReceipt,
    ChargebackReceipt,
    ChargeReceipt,
    GrantReceipt,
    OpeningReceipt,
    PurchaseReceipt,
    RefundReceipt,
    ReinstatementReceipt,
    ReversalReceipt,
    VoidReceipt,
)
from cogni_billing.domain.reversals import FailureRequest, ReversalRequest
from cogni_billing.domain.schedules import GrantSchedule, Schedule, ScheduleRequest
from cogni_billing.domain.seals import Seal
from cogni_billing.domain.statements import Balance, Page, TransactionView
from cogni_billing.domain.timestamps import Expiry
from cogni_billing.domain.transactions import Overrun
from cogni_billing.domain.verification import Verification, Violation
from cogni_billing.ports.environment import Clock, IdSource
from cogni_billing.ports.scope import UnitOfWork


class Billing:
    """Prepaid credits for many tenants.

    Safe to share between threads, like both units of work that come with the library.

    Args:
        unit_of_work: Opens scopes on the ledger.
        policy: The shares of a purchase: a `RevenueSharePolicy`, or `RevenueSharePolicies` that
            follow one another. By default the system tenant gets 25 % on top.
        prices: The credits that money buys in each currency: a `PriceBook`, or `PriceBooks` that
            follow one another. Without a price, one dollar buys 10 000 000 CREDIT.
        clock: The source of time. By default the system clock.
        ids: The source of transaction ids. By default UUIDv7.
        retention: The time for which records must be kept whole after a tenant's newest one.
            `forget` is refused until it has passed. By default no time.

    Every method may raise these errors:

    * `InvalidTenant`: the tenant is no `uuid.UUID`, or is nil or reserved.
    * `LedgerUnavailable`: the ledger cannot be reached. The call recorded nothing.
    * `OutcomeUnknown`, from a call that writes: the answer to the commit was lost. Call again with
      the same key.

    Each writing call has an idempotency key. A second call with the same key and the same request
    is a replay: it returns the first outcome, with `replayed` set. A second call with the same key
    and another request raises `IdempotencyConflict`, which names each field that differs. A refused
    call leaves its key free. It records nothing, except expirations and starts of grants that were
    already due.
    """

    def __init__(
        self,
        unit_of_work: UnitOfWork,
        *,
        policy: Policies | None = None,
        prices: Prices | None = None,
        clock: Clock | None = None,
        ids: IdSource | None = None,
        retention: timedelta | None = None,
    ) -> None:
        self._unit_of_work = checked_unit_of_work(unit_of_work)
        self._context = Context.over(
            unit_of_work, policy, clock, ids, retention=retention, prices=prices
        )

    @property
    def unit_of_work(self) -> UnitOfWork:
        """The unit of work that the calls run on."""
        return self._unit_of_work

    @property
    def policy(self) -> Policies:
        """The policy of new purchases."""
        return self._context.policy

    @property
    def prices(self) -> Prices | None:
        """The price books of new purchases."""
        return self._context.prices

    @property
    def clock(self) -> Clock:
        """The clock of the calls."""
        return self._context.clock

    def _run(self, case: Case[Result]) -> Result:
        return case.on(self._unit_of_work)

    def open_account(self, tenant: TenantId | UUID) -> Account:
        """Open the tenant's account if it has none. Concurrent calls return the same account."""
        return self._run(minting.open_account(self._context, tenant))

    def confirm_purchase(
        self,
        tenant: TenantId | UUID,
        amount: Amount,
        *,
        payment: str,
        expires_in: timedelta | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> PurchaseReceipt:
        """Credit a confirmed payment: the customer in full, and each beneficiary its share.

        Records one atomic, balanced transaction, and opens the account if the tenant has none. The
        key is the payment. A replay returns the shares of the policy that was in force at first.

        Args:
            tenant: The paying tenant.
            amount: The payment, greater than zero: in USD, USDC or a currency that `prices` has.
                One dollar buys 10 000 000 CREDIT, unless `prices` says otherwise. The customer's
                credits are rounded up (ceiling), the shares are rounded down (floor).
            payment: The evidence, `provider:id`, 1 to 255 visible ASCII characters. A transaction
                hash on a chain is in lower case. Each payment is credited once in the whole system.
            expires_in: The lifetime of the customer's credits, from this call on. They repay a debt
                first. The rest is spent after grants, and before purchased credits that never
                expire. The remainder at the end goes to `breakage`. `None` for never. The shares
                of beneficiaries never expire.
            metadata: A JSON object to keep with the transaction.

        Raises:
            InvalidAmount, UnitMismatch, InvalidReference, InvalidMetadata: an argument is invalid.
            UnitMismatch: the currency has no price.
            InvalidTime: *expires_in* is not above zero, or ends after the year 9998.
            InvalidPolicy: no policy is in force yet.
            IdempotencyConflict: the tenant confirmed this payment with another amount or
                *expires_in*.
            PaymentAlreadyClaimed: another tenant confirmed this payment.
        """
        purchase = Purchase(
            tenant=tenant, amount=amount, payment=payment, expires_in=expires_in, metadata=metadata
        )
        return self._run(minting.confirm_purchase(self._context, purchase))

    def confirm_purchases(
        self,
        purchases: Iterable[Purchase | Mapping[str, Any]],
        *,
        all_or_nothing: bool = False,
    ) -> tuple[Outcome[PurchaseReceipt], ...]:
        """Credit many confirmed payments, in one transaction of the store for each tenant.

        Each purchase has the same outcome as if it were confirmed alone, in the order given. A
        refused purchase does not stop the others. A payment that is given twice is recorded once
        and replayed once.

        Args:
            purchases: `Purchase` values, or mappings with the arguments of `confirm_purchase`.
            all_or_nothing: Record all purchases of a tenant or none of them. Each tenant is decided
                apart.

        Returns:
            One `Outcome` for each purchase, in order: done or replayed, with a receipt, or refused,
            with an error. If a tenant's scope fails as a whole, its purchases are all refused with
            that error, and it is safe to call again with the same payments.

        Raises:
            InvalidInput: *purchases* is no iterable, or *all_or_nothing* is no bool.
        """
        return self._run(
            minting.confirm_purchases(self._context, purchases, all_or_nothing=all_or_nothing)
        )

    def charge(
        self,
        tenant: TenantId | UUID,
        amount: Amount,
        *,
        reference: str,
        allow_overdraft: bool = False,
        at_most: bool = False,
        occurred_at: datetime | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> ChargeReceipt:
        """Take credits for work that the tenant consumed.

        Args:
            tenant: The tenant that pays.
            amount: In CREDIT, zero or more. A charge of zero records free work. `charge_for`
                converts a cost.
            reference: The key, unique among the tenant's charges: 1 to 255 visible ASCII
                characters.
            allow_overdraft: Record the charge even if the balance falls below zero, because the
                cost has already been incurred. `set_overdraft_limit` can limit it.
            at_most: Take the available credits if they are fewer than *amount*, and record that
                charge, of zero if the balance is zero or below. The receipt says in `charged` how
                many it took. A replay returns the same receipt. Not with *allow_overdraft*.
            occurred_at: The moment of the usage if it is reported late, timezone-aware: at most 35
                days before the call, not in the future, and not before the account was opened. It
                is part of the request, and shown by the receipt, `find` and statements. The line is
                still dated at the call, and the grants that are there at the call pay.
            metadata: A JSON object to keep with the transaction, at most 16 KiB. It is no part of
                the request's identity: a replay with other metadata keeps the first.

        Raises:
            InvalidAmount, UnitMismatch, InvalidReference, InvalidMetadata, InvalidInput: an
                argument is invalid.
            UnknownAccount: the tenant has no account.
            AccountFrozen: an operator has frozen the account.
            InsufficientCredits: less is available, and *at_most* is not given. Concurrent charges
                never take the available credits below zero, unless the call allows an overdraft.
                Then its `overdraft_limit` is set, and the account's limit does not allow so much.
            InvalidTime: *occurred_at* is naive, or out of its bounds.
            IdempotencyConflict: the tenant used this reference for another charge.
        """
        charge = Charge(
            tenant=tenant,
            amount=amount,
            reference=reference,
            allow_overdraft=allow_overdraft,
            at_most=at_most,
            occurred_at=occurred_at,
            metadata=metadata,
        )
        return self._run(spending.charge(self._context, charge))

    def charge_many(
        self,
        charges: Iterable[Charge | Mapping[str, Any]],
        *,
        all_or_nothing: bool = False,
    ) -> tuple[Outcome[ChargeReceipt], ...]:
        """Take the credits of many charges, in one transaction of the store for each tenant.

        It is to `charge` as `confirm_purchases` is to `confirm_purchase`.

        Args:
            charges: `Charge` values, or mappings with the arguments of `charge`.
            all_or_nothing: Record all charges of a tenant or none of them.

        Returns:
            One `Outcome` for each charge, in order.

        Raises:
            InvalidInput: *charges* is no iterable, or *all_or_nothing* is no bool.
        """
        return self._run(
            spending.charge_many(self._context, charges, all_or_nothing=all_or_nothing)
        )

    def reverse(
        self,
        tenant: TenantId | UUID,
        *,
        charge: str | UUID,
        reference: str,
        amount: Amount | None = None,
        reason: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> ReversalReceipt:
        """Give back a charge or a capture, in full or in part, such as for work that failed.

        The credits go back where they came from, in the reverse order: purchased credits first, and
        then grants, from the last drawn to the first. Credits of a grant that has expired since go
        on to `breakage` in the same transaction. Parts add up, and never exceed the charge.

        Args:
            tenant: The tenant that paid.
            charge: The reference of the charge, or the `transaction_id` of a charge or a capture.
            reference: The key, unique among the tenant's reversals.
            amount: The part to give back, in CREDIT, greater than zero. `None` for all that
                remains.
            reason: A reason for people to read: 1 to 255 printable characters.
            metadata: A JSON object to keep with the transaction.

        Raises:
            InvalidAmount, UnitMismatch, InvalidReference, InvalidMetadata, InvalidInput: an
                argument is invalid.
            PrivilegeRequired: the unit of work may spend credits but not create them.
            UnknownAccount: the tenant has no account.
            IdempotencyConflict: the tenant used this reference for another reversal.
            UnknownCharge: the tenant has no such charge or capture.
            ReversalExceedsCharge: the rest of the charge is smaller, or zero.
        """
        request = GiveBackRequest(
            tenant=tenant,
            charge=charge,
            amount=amount,
            reference=reference,
            reason=reason,
            metadata=metadata,
        )
        return self._run(spending.reverse(self._context, request))

    def hold(
        self,
        tenant: TenantId | UUID,
        amount: Amount,
        *,
        reference: str,
        expires_at: datetime | None = None,
        expires_in: timedelta | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Hold:
        """Set credits aside before the cost of the work is known. `capture` takes the actual cost.

        Args:
            tenant: The tenant that will pay.
            amount: In CREDIT, greater than zero.
            reference: The key, unique among the tenant's holds: 1 to 255 visible ASCII characters.
            expires_at: The moment when the hold ends by itself, timezone-aware and in the future.
            expires_in: The time until the hold ends by itself, in place of *expires_at*. A retry
                with the same time is a replay. Without both, the hold stays open until it is
                captured or released.
            metadata: A JSON object to keep with the hold.

        Returns:
            The hold. A replay returns the open hold as it is now, with `replayed` set: another call
            opened it, so do not release it without knowing that the other work has ended.

        Raises:
            InvalidAmount, UnitMismatch, InvalidReference, InvalidMetadata: an argument is invalid.
            InvalidTime: *expires_at* is naive or has passed, *expires_in* is not above zero, or
                both are given.
            UnknownAccount: the tenant has no account.
            AccountFrozen: an operator has frozen the account.
            InsufficientCredits: less is available.
            IdempotencyConflict: the tenant used this reference for another hold.
            HoldClosed: the hold of this reference was captured or released, or has expired. It sets
                nothing aside any more.
        """
        request = HoldRequest(
            tenant=tenant,
            amount=amount,
            reference=reference,
            expiry=Expiry.given(expires_at, expires_in),
            metadata=metadata,
        )
        return self._run(spending.hold(self._context, request))

    def capture(
        self,
        tenant: TenantId | UUID,
        hold_id: UUID,
        amount: Amount,
        *,
        reference: str,
        final: bool = True,
        overrun: Overrun = Overrun.REFUSE,
        metadata: Mapping[str, object] | None = None,
    ) -> CaptureReceipt:
        """Take a cost out of a hold. The rest of the hold is available again.

        With `final=False` the hold stays open with the rest set aside, and more captures can
        follow. Held credits can be captured even if an overdraft has used up all others.

        Args:
            tenant: The tenant that pays.
            hold_id: The `id` of the hold.
            amount: In CREDIT, zero or more. A final capture of zero releases all that is held.
            reference: The key, unique among the tenant's captures.
            final: End the hold.
            overrun: The rule for a cost above the held credits. `Overrun.REFUSE` refuses it,
                `Overrun.AVAILABLE` takes the excess from the available credits, and
                `Overrun.OVERDRAFT` takes it even if the balance falls below zero.
            metadata: A JSON object to keep with the transaction.

        Raises:
            InvalidAmount, UnitMismatch, InvalidReference, InvalidMetadata, InvalidInput: an
                argument is invalid.
            UnknownAccount: the tenant has no account.
            IdempotencyConflict: the tenant used this reference for another capture.
            UnknownHold: the tenant has no such hold.
            HoldClosed: the hold has ended: it was captured or released, or has expired.
            InsufficientCredits: less is held, and *overrun* or the account's `overdraft_limit` does
                not allow the excess. Its `held` says how much is held, and its `available` how much
                is available beside it.
        """
        request = CaptureRequest(
            tenant=tenant,
            hold_id=hold_id,
            amount=amount,
            reference=reference,
            final=final,
            overrun=overrun,
            metadata=metadata,
        )
        return self._run(spending.capture(self._context, request))

    def metered(
        self,
        tenant: TenantId | UUID,
        *,
        limit: Amount,
        reference: str,
        ttl: timedelta,
        every: Amount | timedelta = EVERY_DEFAULT,
    ) -> Metered:
        """Meter work whose cost comes in small parts, such as the tokens of a stream.

        The result is a context manager. It holds the limit on entering. Its `add` adds a cost, and
        captures the added costs from time to time. `add` also renews the hold. On leaving, also by
        an exception, it captures what is pending and releases the rest. If the process is killed,
        the hold expires by itself, and what was pending is not charged.

        Args:
            tenant: The tenant that will pay.
            limit: The highest cost of the run, in CREDIT, greater than zero.
            reference: The key of the run, unique among the tenant's holds: 1 to 240 visible ASCII
                characters. Captures and extensions have it with a number, such as `run-1/1`.
            ttl: The time without `add` after which the hold expires, at most 30 days. `add` renews
                the hold after a third of it. An added zero renews it, too.
            every: The pending credits, or the time since the last capture, at which `add` captures.

        Raises:
            InvalidAmount, UnitMismatch, InvalidReference, InvalidTime, InvalidInput: an argument
                is invalid, also one of `add`.
            UnknownAccount: on entering, the tenant has no account.
            InsufficientCredits: on entering, less than the limit is available. From `add`, less
                remains of the limit; this cost is not added.
            AccountFrozen: on entering, or from `add` when it renews the hold.
            IdempotencyConflict: the tenant used this reference for another hold.
            RunInProgress: another run with this reference has begun and has not ended.
            HoldClosed: on entering, a run with this reference has ended. From `add` and on leaving,
                the hold has expired or was released. `pending` says what was not charged.
            LedgerUnavailable, OutcomeUnknown: from `add`, the cost was added and is pending. Do not
                add it again: the next `add`, or leaving, captures it.
            ScopeClosed: `add` was called outside of the `with` statement.
        """
        meter = Meter(tenant=tenant, limit=limit, reference=reference, ttl=ttl, every=every)
        return Metered(self._context, meter, self._unit_of_work)

    def extend(
        self,
        tenant: TenantId | UUID,
        hold_id: UUID,
        amount: Amount | None = None,
        *,
        expires_at: datetime | None = None,
        expires_in: timedelta | None = None,
        reference: str,
    ) -> Hold:
        """Set more credits aside for an open hold, move its expiry, or both.

        Args:
            tenant: The tenant that will pay.
            hold_id: The `id` of the hold.
            amount: The credits to add, in CREDIT, greater than zero. `None` adds none.
            expires_at: The new moment of the expiry, later or earlier than the present one.
            expires_in: The time from now until the new expiry, in place of *expires_at*. Without
                both, the expiry stays.
            reference: The key, unique among the tenant's extensions.

        Returns:
            The hold as it is now, also on a replay.

        Raises:
            InvalidAmount, UnitMismatch, InvalidReference, InvalidInput: an argument is invalid, or
                there is nothing to change.
            InvalidTime: the new expiry is naive or has passed, or both expiries are given.
            UnknownAccount: the tenant has no account.
            IdempotencyConflict: the tenant used this reference for another extension.
            UnknownHold: the tenant has no such hold.
            HoldClosed: the hold has ended, also since the first call of a replay.
            InsufficientCredits: less is available.
        """
        expiry = Expiry.given(expires_at, expires_in)
        return self._run(
            spending.extend(
                self._context, tenant, hold_id, amount, expiry=expiry, reference=reference
            )
        )

    def release(
        self,
        tenant: TenantId | UUID,
        hold_id: UUID,
        amount: Amount | None = None,
        *,
        reference: str | None = None,
    ) -> Hold:
        """Make held credits available again: all of them, or a part.

        The release of all held credits ends the hold. Without a reference, a second release of the
        hold changes no balance and is a replay.

        Args:
            tenant: The tenant of the hold.
            hold_id: The `id` of the hold.
            amount: The part to release, in CREDIT, greater than zero. `None` for all.
            reference: The key, unique among the tenant's releases. A part needs one, because a
                retry without a key would release it twice.

        Returns:
            The hold as it is now, also on a replay.

        Raises:
            InvalidAmount, UnitMismatch, InvalidReference, InvalidInput: an argument is invalid, or
                a part has no reference.
            UnknownAccount: the tenant has no account.
            IdempotencyConflict: the tenant used this reference for another release.
            UnknownHold: the tenant has no such hold.
            HoldClosed: the hold was captured, or has expired. With a new reference: the hold has
                ended.
            InsufficientCredits: less is held.
        """
        return self._run(
            spending.release(self._context, tenant, hold_id, amount, reference=reference)
        )

    def find_hold(self, tenant: TenantId | UUID, reference: str) -> Hold | None:
        """The tenant's hold with this reference in any state, as it is now, or `None`.

        Raises:
            InvalidReference: *reference* is invalid.
            UnknownAccount: the tenant has no account, and has earned no share.
        """
        return self._run(reading.find_hold(self._context, tenant, reference))

    def holds(
        self, tenant: TenantId | UUID, *, limit: int = 50, after: str | None = None
    ) -> HoldPage:
        """A page of the tenant's open holds, newest first.

        Args:
            tenant: The owner of the holds.
            limit: The most holds on the page, 1 to 1000.
            after: The `next` of the page before. Holds that were opened since do not shift pages.

        Raises:
            InvalidPage: *limit* or *after* is invalid.
            UnknownAccount: the tenant has no account, and has earned no share.
        """
        return self._run(reading.holds(self._context, tenant, limit=limit, after=after))

    def grant(
        self,
        tenant: TenantId | UUID,
        amount: Amount,
        *,
        source: str,
        reference: str,
        expires_at: datetime | None = None,
        expires_in: timedelta | None = None,
        effective_from: datetime | None = None,
        priority: int = PRIORITY_DEFAULT,
        metadata: Mapping[str, object] | None = None,
    ) -> GrantReceipt:
        """Give the tenant credits without a payment, such as a promotion.

        Granted credits first repay the tenant's debt, if it has one: `repaid` on the receipt. The
        rest is spent before purchased credits. Credits that a dispute sets aside are no debt. When
        a grant expires, its remaining credits are taken in a balanced transaction of their own,
        dated at the expiry.

        Args:
            tenant: The tenant that gets them. Its account is opened if it has none.
            amount: In CREDIT, greater than zero.
            source: The origin of the credits, such as `promo:launch`: 1 to 255 visible ASCII
                characters.
            reference: The key, unique among the tenant's grants.
            expires_at: The moment when the remaining credits expire, timezone-aware and in the
                future. Credits that a hold has set aside by then expire when the hold ends without
                using them. `None` for never.
            expires_in: The lifetime, in place of *expires_at*: above zero, from the moment of the
                call, or from *effective_from* if that is later. A retry with the same lifetime is
                a replay.
            effective_from: The moment at which the grant begins, timezone-aware. A grant that
                begins later waits: until then it is no transaction, adds no credits and repays no
                debt. `schedules` lists it, and `void_grant` ends it. `None`, and a moment that has
                passed, are for now.
            priority: From 0 to 1 000 000. The lowest priority is spent first. Of equal priorities,
                the grant that expires first comes first, and then the oldest.
            metadata: A JSON object to keep with the transaction.

        Raises:
            InvalidAmount, UnitMismatch, InvalidReference, InvalidMetadata, InvalidInput: an
                argument is invalid.
            InvalidTime: *expires_at* is naive, or has passed, or is not after *effective_from*, or
                *expires_in* is not above zero or given beside it, or *effective_from* is naive.
            IdempotencyConflict: the tenant used this reference for another grant.
        """
        request = GrantRequest(
            tenant=tenant,
            amount=amount,
            source=source,
            reference=reference,
            expiry=Expiry.given(expires_at, expires_in),
            effective_from=effective_from,
            priority=priority,
            metadata=metadata,
        )
        return self._run(minting.grant(self._context, request))

    def grants(
        self,
        tenant: TenantId | UUID,
        *,
        spent: bool = False,
        limit: int | None = None,
        after: UUID | None = None,
    ) -> tuple[Grant, ...]:
        """The tenant's grants with credits left, in spend order, or a page of all its grants.

        Args:
            tenant: The owner of the grants.
            spent: Return all grants, newest first, with those that are spent or have expired.
            limit: The most grants to return with *spent*, from 1 to 1000. `None` for 1000.
            after: With *spent*, the id of the last grant of the page before. `None` for the first
                page.

        Raises:
            InvalidInput: *spent* is no bool, or *after* is no `uuid.UUID`.
            InvalidPage: *limit* is invalid, or *limit* or *after* is given without *spent*.
            UnknownAccount: the tenant has no account, and has earned no share.
        """
        return self._run(
            reading.grants(self._context, tenant, spent=spent, limit=limit, after=after)
        )

    def lots(self, tenant: TenantId | UUID) -> tuple[Lot, ...]:
        """The tenant's purchases that expire and have credits left, in spend order.

        The first one to expire is spent first. Purchased credits that never expire are in no lot.

        Raises:
            UnknownAccount: the tenant has no account.
        """
        return self._run(reading.lots(self._context, tenant))

    def void_grant(
        self,
        tenant: TenantId | UUID,
        grant_id: UUID,
        *,
        reference: str,
        reason: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> VoidReceipt:
        """Take the remaining credits of a grant back, and end the grant.

        Spent credits stay spent, and a repaid debt stays repaid. Credits that a hold has set aside
        can still be captured. The rest of them expires when the hold ends. The receipt of a grant
        without remaining credits has `voided` at zero.

        Args:
            tenant: The tenant that has the grant.
            grant_id: The `id` of the grant, which is the `transaction_id` of its receipt.
            reference: The key, unique among the tenant's voids: 1 to 255 visible ASCII characters.
            reason: A text for people: 1 to 255 printable characters.
            metadata: A JSON object to keep with the transaction.

        Raises:
            InvalidReference, InvalidMetadata, InvalidInput: an argument is invalid.
            PrivilegeRequired: the role may spend credits but not create them.
            UnknownAccount: the tenant has no account.
            UnknownGrant: the tenant has no such grant. A purchase that expires is none.
            IdempotencyConflict: the tenant used this reference for another void.
        """
        request = VoidRequest(
            tenant=tenant,
            grant_id=grant_id,
            reference=reference,
            reason=reason,
            metadata=metadata,
        )
        return self._run(granting.void_grant(self._context, request))

    def extend_grant(
        self,
        tenant: TenantId | UUID,
        grant_id: UUID,
        *,
        reference: str,
        expires_at: datetime | None = None,
        expires_in: timedelta | None = None,
    ) -> GrantExtension:
        """Move the expiry of a grant to a later moment.

        Args:
            tenant: The tenant that has the grant.
            grant_id: The `id` of the grant, which is the `transaction_id` of its receipt.
            reference: The key, unique among the tenant's extensions: 1 to 255 visible ASCII
                characters.
            expires_at: The new expiry, timezone-aware and later than the present one.
            expires_in: The time from this call to the new expiry, in place of *expires_at*. A retry
                with the same time is a replay.

        Raises:
            InvalidReference, InvalidInput: an argument is invalid.
            InvalidTime: none of the two is given, or both are, or the new expiry is naive, out of
                range, or no later than the present one, or the grant never expires.
            PrivilegeRequired: the role may spend credits but not create them.
            UnknownAccount: the tenant has no account.
            UnknownGrant: the tenant has no such grant. A purchase that expires is none.
            GrantClosed: the grant has expired, or was voided.
            IdempotencyConflict: the tenant used this reference for another extension.
        """
        expiry = Expiry.given(expires_at, expires_in)
        return self._run(
            granting.extend_grant(
                self._context, tenant, grant_id, expiry=expiry, reference=reference
            )
        )

    def schedule_grants(
        self,
        tenant: TenantId | UUID,
        schedule: GrantSchedule,
        *,
        reference: str,
        replaces: UUID | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Schedule:
        """Grant credits at the beginning of each period, such as the credits of a plan each month.

        Periods begin by time, without a job: every call counts those that are due. The first
        period is the one that contains the present, granted in full at once, or the one that begins
        at a later anchor. Each period is a grant of its own, with the source, the priority and the
        metadata of the schedule. It repays a debt first, as `grant` does, also if the account is
        frozen. What is unused at the end of the period expires, unless a rollover carries it.

        Args:
            tenant: The tenant that gets the credits. Its account is opened if it has none.
            schedule: The terms.
            reference: The key, unique among the tenant's schedules: 1 to 255 visible ASCII
                characters.
            replaces: The id of a schedule that ends now. What is left of the grants of its latest
                period is voided, before the new schedule grants. Credits that were carried from
                earlier periods stay. Without it, both schedules go on.
            metadata: A JSON object to keep with the schedule and with each of its grants.

        Returns:
            The schedule. A replay returns it as it is now, with `replayed` set.

        Raises:
            InvalidReference, InvalidMetadata, InvalidInput: an argument is invalid.
            PrivilegeRequired: the role may spend credits but not create them.
            IdempotencyConflict: the tenant used this reference for another schedule.
            UnknownSchedule: the tenant has no schedule *replaces*.
        """
        request = ScheduleRequest(
            tenant=tenant,
            schedule=schedule,
            reference=reference,
            replaces=replaces,
            metadata=metadata,
        )
        return self._run(scheduling.schedule_grants(self._context, request))

    def end_schedule(self, tenant: TenantId | UUID, schedule_id: UUID) -> Schedule:
        """End a schedule: no more period begins. Granted credits stay until they expire.

        Args:
            tenant: The tenant that has the schedule.
            schedule_id: The `id` of the schedule.

        Returns:
            The schedule. A second call returns it with `replayed` set.

        Raises:
            InvalidInput: *schedule_id* is no `uuid.UUID`.
            PrivilegeRequired: the role may spend credits but not create them.
            UnknownAccount: the tenant has no account.
            UnknownSchedule: the tenant has no such schedule. A single grant that waits is none:
                `void_grant` ends it.
        """
        return self._run(scheduling.end_schedule(self._context, tenant, schedule_id))

    def schedules(
        self, tenant: TenantId | UUID, *, limit: int = 50, after: UUID | None = None
    ) -> tuple[Schedule, ...]:
        """The tenant's schedules, newest first: open and ended ones, and grants that begin later.

        Args:
            tenant: The tenant that has the schedules.
            limit: The most schedules to return, from 1 to 1000.
            after: The id of the last schedule of the page before. `None` for the first page.

        Raises:
            InvalidInput: *after* is no `uuid.UUID`.
            InvalidPage: *limit* is invalid.
            UnknownAccount: the tenant has no account, and has earned no share.
        """
        return self._run(scheduling.schedules(self._context, tenant, limit=limit, after=after))

    def refund(
        self,
        tenant: TenantId | UUID,
        *,
        payment: str,
        amount: Amount | None = None,
        total: Amount | None = None,
        reference: str,
        shortfall: Shortfall = Shortfall.DEBT,
        metadata: Mapping[str, object] | None = None,
    ) -> RefundReceipt:
        """Reverse a purchase because its payment was returned, in full or in part.

        Takes back the customer's credits and every share. Each posting goes back to floor(posting x
        returned so far / paid), so partial refunds add up, and after a full refund every posting is
        at exactly zero.

        Of a purchase that expires, the credits that are left come first, and then the expired ones,
        which come from `breakage`: the customer does not owe them. Only the rest was spent. Once a
        refund has taken other credits for spent ones, the purchase no longer expires.

        A refund may return a part that is disputed. The open disputes then set less aside, the
        newest one first.

        Args:
            tenant: The tenant that paid.
            payment: The payment of the purchase.
            amount: The returned part of the payment, in the payment's unit. `None` for all that
                remains.
            total: In place of an amount: the sum of the payment's refunds, including this one, as
                the processor reports it. If earlier refunds have reached it, for example because
                events arrive out of order, the refund is recorded with an amount of zero. If a lost
                dispute has returned a part as well, the credits of no more than the payment are
                taken back.
            reference: The key, unique among the tenant's refunds.
            shortfall: The rule for credits that the customer has already spent. `Shortfall.DEBT`
                lets the balance fall below zero. `Shortfall.CLAMP` takes the available credits,
                purchased ones first, and the platform's `shortfall` account absorbs the rest.
                `Shortfall.REFUSE` refuses the refund if the available credits do not cover it. For
                the shares of beneficiaries, the `clawback` of the purchase's policy decides.
            metadata: A JSON object to keep with the transaction.

        Raises:
            InvalidAmount, InvalidReference, InvalidMetadata, InvalidInput: an argument is invalid,
                or both *amount* and *total* are given.
            UnitMismatch: *amount* or *total* is in another unit than the payment.
            PrivilegeRequired: the unit of work has no service role.
            UnknownAccount: the tenant has no account.
            IdempotencyConflict: the tenant used this reference for another refund.
            UnknownPayment: the tenant has confirmed no such payment.
            RefundExceedsPayment: *amount* is larger than the rest of the payment, *total* is larger
                than the payment, or the rest is zero and no *total* is given. Names the disputes
                that were lost, since their part is no longer there.
            InsufficientCredits: less is available, and *shortfall* is `Shortfall.REFUSE`. The
                refund is not recorded, so do not return the payment.
        """
        request = ReversalRequest(
            tenant=tenant,
            payment=payment,
            amount=amount,
            total=total,
            reference=reference,
            shortfall=shortfall,
            metadata=metadata,
        )
        return self._run(reversals.refund(self._context, request))

    def refund_failed(
        self,
        tenant: TenantId | UUID,
        *,
        payment: str,
        refund: str,
        reference: str,
        metadata: Mapping[str, object] | None = None,
    ) -> ReinstatementReceipt:
        """Undo a refund that failed at the bank: the payment was not returned.

        Gives the customer's credits and every share back, to floor(posting x returned / paid). What
        the `shortfall` account absorbed of the refund goes back to it first, then expired credits
        go back to `breakage`, and the rest to the customer. Credits go back to the grants and
        purchases from which they were taken. Those that have expired since expire at once.

        A refund fails once. A later call for the same refund returns the first outcome, also with
        another reference.

        Args:
            tenant: The tenant that paid.
            payment: The payment of the purchase.
            refund: The reference of the refund.
            reference: The key, unique among the tenant's failed refunds.
            metadata: A JSON object to keep with the transaction.

        Raises:
            InvalidReference, InvalidMetadata: see `refund`.
            PrivilegeRequired, UnknownAccount, UnknownPayment: see `refund`.
            IdempotencyConflict: the tenant used this reference for another refund.
            UnknownRefund: the payment has no such refund. If events arrive out of order, let the
                provider send this one again.
        """
        request = FailureRequest(
            tenant=tenant,
            payment=payment,
            refund=refund,
            reference=reference,
            metadata=metadata,
        )
        return self._run(reversals.refund_failed(self._context, request))

    def open_dispute(
        self,
        tenant: TenantId | UUID,
        *,
        payment: str,
        reference: str,
        amount: Amount | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Dispute:
        """Set a disputed purchase aside until the dispute is won or lost.

        Sets the customer's credits and every share aside, even beyond the available credits. A
        payment can have several disputes, each of a part. No more is set aside than the payment has
        left, so a dispute of a refunded payment sets nothing aside. Credits that have expired are
        not set aside. The others of the purchase no longer expire.

        Args:
            tenant: The tenant that paid.
            payment: The payment of the purchase.
            reference: The key, unique among the tenant's disputes: the provider's dispute id.
            amount: The disputed part of the payment, in the payment's unit. `None` for all that
                was not returned and is not disputed yet.
            metadata: A JSON object to keep with the dispute.

        Raises:
            InvalidAmount, UnitMismatch, InvalidReference, InvalidMetadata: see `refund`.
            PrivilegeRequired, UnknownAccount, UnknownPayment, IdempotencyConflict: see `refund`.
        """
        request = DisputeRequest(
            tenant=tenant,
            payment=payment,
            amount=amount,
            reference=reference,
            metadata=metadata,
        )
        return self._run(reversals.open_dispute(self._context, request))

    def update_dispute(
        self,
        tenant: TenantId | UUID,
        *,
        payment: str,
        reference: str,
        amount: Amount,
    ) -> Dispute:
        """Change the disputed amount. An open dispute then sets aside so much.

        A dispute that was lost in full is lost with this amount. Of a dispute that was won, or was
        lost in a named part, only `amount` changes. The same amount again changes nothing.

        Args:
            tenant: The tenant that paid.
            payment: The payment of the purchase.
            reference: The reference of the dispute.
            amount: The disputed part of the payment, in the payment's unit.

        Raises:
            InvalidAmount, UnitMismatch, InvalidReference: an argument is invalid.
            PrivilegeRequired, UnknownAccount, UnknownDispute: see `win_dispute`.
        """
        return self._run(
            reversals.update_dispute(
                self._context, tenant, payment=payment, reference=reference, amount=amount
            )
        )

    def win_dispute(
        self,
        tenant: TenantId | UUID,
        *,
        payment: str,
        reference: str,
    ) -> Dispute:
        """Set the dispute to won. Releases exactly the credits that it set aside.

        If the dispute was lost, gives back the credits and shares that this took, as
        `refund_failed` does. Winning it again changes nothing.

        Raises:
            InvalidReference: *payment* or *reference* is invalid.
            PrivilegeRequired: the unit of work has no service role.
            UnknownAccount: the tenant has no account.
            UnknownDispute: the payment has no such dispute. If events arrive out of order, let the
                provider send this one again.
        """
        return self._run(
            reversals.win_dispute(self._context, tenant, payment=payment, reference=reference)
        )

    def lose_dispute(
        self,
        tenant: TenantId | UUID,
        *,
        payment: str,
        reference: str,
        amount: Amount | None = None,
        shortfall: Shortfall = Shortfall.DEBT,
        metadata: Mapping[str, object] | None = None,
    ) -> ChargebackReceipt:
        """Set the dispute to lost. Reverses the disputed part of the purchase, as `refund` does.

        The bank may change its mind, so a dispute that was won can be lost, and the reverse.
        Losing it again changes nothing. No more is taken back than the payment has left, so the
        receipt of a refunded payment has zeros.

        Args:
            tenant: The tenant that paid.
            payment: The payment of the purchase.
            reference: The reference of the dispute.
            amount: The lost part of the payment, in the payment's unit. The rest is released.
                `None` for the disputed amount.
            shortfall: See `refund`. The payment is lost in any case, so `Shortfall.REFUSE` is
                invalid here.
            metadata: A JSON object to keep with the transaction.

        Raises:
            InvalidAmount, UnitMismatch: see `refund`.
            InvalidReference, InvalidMetadata, InvalidInput: see `refund`.
            PrivilegeRequired, UnknownAccount, UnknownDispute: see `win_dispute`.
            IdempotencyConflict: the dispute is lost already, by a call with another *amount* or
                *shortfall*. `update_dispute` changes the amount.
        """
        request = ReversalRequest(
            tenant=tenant,
            payment=payment,
            amount=amount,
            reference=reference,
            shortfall=shortfall,
            metadata=metadata,
        )
        return self._run(reversals.lose_dispute(self._context, request))

    def find_payment(self, payment: str) -> FoundPayment | None:
        """The payment, whichever tenant it was credited to. `None` if it was never credited.

        For back offices and webhooks, which know the processor's id but not the tenant.

        Args:
            payment: The evidence of the purchase, `provider:id`.

        Raises:
            InvalidReference: *payment* is invalid.
            PrivilegeRequired: the unit of work has no service role.
        """
        return self._run(finding.find_payment(self._context, payment))

    def adjust(
        self,
        tenant: TenantId | UUID,
        amount: Amount,
        *,
        reason: str,
        reference: str,
        actor: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> AdjustmentReceipt:
        """Correct the tenant's credits by hand, for a reason. An adjustment is never usage.

        Added credits never expire. Taken credits come out of purchased ones that never expire,
        then of those that do, and then of grants, like those of a refund. A correction is never
        refused for lack of credits: the balance may fall below zero.

        Args:
            tenant: The tenant to correct. It must have an account.
            amount: In CREDIT: above zero to add credits, below zero to take them.
            reason: Why, for people: 1 to 255 printable characters, which may be spaces, but not all
                of them. The tenant can read it with the transaction.
            reference: The key, unique among the tenant's adjustments: 1 to 255 visible ASCII
                characters.
            actor: The operator's id, 1 to 255 visible ASCII characters. `None` for the actor that
                `acting` names. It is no part of the request.
            metadata: A JSON object to keep with the transaction.

        Raises:
            InvalidAmount, UnitMismatch, InvalidReference, InvalidMetadata, InvalidInput: an
                argument is invalid.
            PrivilegeRequired: the unit of work has no service role.
            UnknownAccount: the tenant has no account.
            IdempotencyConflict: the tenant's reference was used for another adjustment.
        """
        request = AdjustmentRequest(
            tenant=tenant,
            amount=amount,
            reason=reason,
            reference=reference,
            actor=actor,
            metadata=metadata,
        )
        return self._run(adjusting.adjust(self._context, request))

    def opening(
        self,
        tenant: TenantId | UUID,
        *,
        purchased: Amount = ZERO,
        grants: Iterable[OpeningGrant] = (),
        as_of: datetime,
    ) -> OpeningReceipt:
        """Record the balance that the tenant brings from another system, once.

        All of it is recorded in one transaction of the store: a grant for each of *grants*, under
        the references `opening/1` and so on, and the purchased credits, of the kind `opening`. The
        lines are dated at *as_of*. No payment is claimed and no share is minted. The grants repay a
        debt, in spend order. Opens the account, as of *as_of*, unless the tenant has one.

        The key is the tenant: a second call with the same arguments is a replay.

        Args:
            tenant: The tenant, whose account has no transaction of its own yet, and no schedule of
                grants. Shares that it has earned are no obstacle.
            purchased: The credits that were paid for, in CREDIT. Below zero for a debt.
            grants: What is left of each grant, at most 1000. Each was granted by *as_of*, and
                expires after it, if at all.
            as_of: The moment of the balance, timezone-aware and not in the future. Usage that is
                reported late can be of that moment at the earliest.

        Raises:
            InvalidAmount, UnitMismatch, InvalidInput: an argument is invalid.
            InvalidTime: *as_of* is naive or in the future, or a grant does not fit it.
            PrivilegeRequired: the unit of work has no service role. No role that serves requests
                may date a record in the past.
            IdempotencyConflict: the tenant has another opening.
            AccountInUse: the account has other transactions or a schedule already. Correct it by
                `adjust`.
        """
        request = OpeningRequest(tenant=tenant, purchased=purchased, grants=grants, as_of=as_of)
        return self._run(opening.opening(self._context, request))

    def freeze(self, tenant: TenantId | UUID, reason: str) -> Account:
        """Keep the tenant from spending until `unfreeze`.

        Charges, holds, their extensions, and captures beyond a hold raise `AccountFrozen`, also if
        they may overdraw. Everything else still happens: purchases and grants, captures within
        open holds and releases, refunds, disputes, adjustments, expirations, starts of grants and
        shares. Freezing a frozen account changes nothing.

        Args:
            tenant: The tenant to freeze. It must have an account.
            reason: Why, for people: 1 to 255 printable characters, not all of them spaces. The
                tenant can read it: `Account.freeze` of `open_account`.

        Returns:
            The account with its freeze, which is the first one if it was frozen already.

        Raises:
            InvalidInput: *reason* is invalid.
            PrivilegeRequired: the unit of work has no service role.
            UnknownAccount: the tenant has no account.
        """
        return self._run(freezing.freeze(self._context, tenant, reason))

    def unfreeze(self, tenant: TenantId | UUID) -> Account:
        """Let the tenant spend again. Unfreezing an account that is not frozen changes nothing.

        Raises:
            PrivilegeRequired: the unit of work has no service role.
            UnknownAccount: the tenant has no account.
        """
        return self._run(freezing.unfreeze(tenant))

    def set_overdraft_limit(self, tenant: TenantId | UUID, amount: Amount | None) -> Account:
        """Limit the tenant's overdrafts: how far below zero its available credits may fall.

        Binds the calls that allow an overdraft: `charge(allow_overdraft=True)`, and
        `capture(overrun=Overrun.OVERDRAFT)` of more than the hold. A call that would take the
        available credits further below zero raises `InsufficientCredits` with the
        `overdraft_limit`. Refunds, disputes, adjustments and expirations have no limit. Setting the
        same limit again changes nothing.

        Args:
            tenant: The tenant to limit. It must have an account.
            amount: In CREDIT. Zero allows no overdraft. `None` is for no limit, as at first.

        Returns:
            The account with its `overdraft_limit`. It may be overdrawn by more already.

        Raises:
            InvalidAmount, UnitMismatch: *amount* is invalid, or below zero.
            PrivilegeRequired: the unit of work has no service role.
            UnknownAccount: the tenant has no account.
        """
        return self._run(overdrafts.set_overdraft_limit(tenant, amount))

    def balance(self, tenant: TenantId | UUID, *, at: datetime | None = None) -> Balance:
        """The tenant's posted, held and available credits, now or as of a moment.

        Args:
            tenant: The owner of the account.
            at: The moment, timezone-aware. Postings of exactly that moment count.

        Raises:
            InvalidTime: *at* is naive.
            UnknownAccount: the tenant has no account, and has earned no share.
        """
        return self._run(reading.balance(self._context, tenant, at=at))

    def statement(
        self,
        tenant: TenantId | UUID,
        *,
        limit: int = 50,
        after: str | None = None,
        kind: TransactionKind | str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Page:
        """A page of the tenant's postings, newest first, with the balances around them.

        The page's `opening` is the posted balance before *since*, and `closing` the one before
        *until*. The amounts of all lines between them are the difference. An expiration that is due
        is a line at its own moment, also before it is posted.

        Args:
            tenant: The owner of the account.
            limit: The most lines on the page, from 1 to 1000.
            after: The `next` of the previous page, or `None` for the first page.
            kind: Only postings of this kind of transaction.
            since: Only postings of this moment or later, timezone-aware.
            until: Only postings before this moment, timezone-aware.

        Raises:
            InvalidTime: *since* or *until* is naive, or *until* is before *since*.
            InvalidPage: *limit* or *after* is invalid.
            InvalidInput: *kind* is no kind of transaction.
            UnknownAccount: the tenant has no account, and has earned no share.
        """
        return self._run(
            reading.statement(
                self._context,
                tenant,
                limit=limit,
                after=after,
                kind=kind,
                since=since,
                until=until,
            )
        )

    def find(
        self, tenant: TenantId | UUID, *, reference: str, kind: TransactionKind | str
    ) -> TransactionView | None:
        """The tenant's transaction with this key, or `None`.

        Args:
            tenant: The owner of the transaction.
            reference: The key. The key of a purchase is its payment.
            kind: The kind of transaction. A key is unique among a tenant's transactions of one
                kind.

        Raises:
            InvalidReference: *reference* is invalid.
            InvalidInput: *kind* is no kind of transaction.
            UnknownAccount: the tenant has no account, and has earned no share.
        """
        return self._run(reading.find(tenant, reference=reference, kind=kind))

    def transaction(self, tenant: TenantId | UUID, transaction_id: UUID) -> TransactionView | None:
        """The tenant's own transaction with this id and its own postings, or `None`.

        Raises:
            InvalidInput: *transaction_id* is no `uuid.UUID`.
            UnknownAccount: the tenant has no account, and has earned no share.
        """
        return self._run(reading.transaction(tenant, transaction_id))

    def forget(self, tenant: TenantId | UUID) -> int:
        """Erase texts of the tenant that may be personal data. Returns their number.

        Erases the metadata of transactions, holds, disputes and payment attempts, the sources of
        grants, and the reasons of adjustments and of a freeze. Digests replace them, so replays,
        `verify` and seals have the same outcome as before. Amounts, times, ids, actors, references
        and payments stay, because the ledger needs them. So never put personal data into a key.
        Texts recorded later can be erased by another call.

        Raises:
            PrivilegeRequired: the unit of work has no service role.
            UnknownAccount: the tenant has no account.
            RecordsRetained: the `retention` has not passed since the tenant's newest record.
                `until` is when it will have.
        """
        return self._run(maintenance.forget(self._context, tenant))

    def fold(self) -> Folding:
        """Write balance checkpoints for accounts that receive shares, such as the system tenant's.

        Balances stay the same, and reading them gets faster. Run it regularly. It blocks no other
        call, and misses no concurrent posting.

        Raises:
            PrivilegeRequired: the unit of work has no service role.
            LedgerUnavailable: a transaction on the ledger has been open for too long.
        """
        return self._run(maintenance.fold())

    def sweep(self) -> int:
        """Post the expirations and the starts of grants that are due on idle wallets.

        Returns the number of wallets updated. Balances and calls count both without it. It brings
        them into the statements of idle tenants. Run it regularly. Each wallet is updated in a
        transaction of its own. It continues when one wallet fails, and raises the most severe error
        at the end.

        Raises:
            PrivilegeRequired: the unit of work has no service role.
            LedgerUnavailable: a wallet could not be updated now.
            OutcomeUnknown: a wallet may have been updated. Sweep again.
            LedgerCorruption: a wallet cannot be updated. Its tenant needs an operator.
        """
        return self._run(maintenance.sweep(self._context))

    def verify(self, *, limit: int = 1000) -> Verification:
        """Check every invariant that the stored data can show, over the whole ledger.

        Reads the ledger in bounded memory, and blocks no other call. It checks shares against the
        policy that their purchase recorded, never against the present one. It repairs no record.

        It finds each edit that leaves records in conflict. It does not find an edit by an owner of
        the tables that changes all records of a transaction consistently. `verify_seals` does.

        Args:
            limit: The most violations to report of each invariant.

        Returns:
            A `Verification`: `ok`, or violations with the ids that locate them.

        Raises:
            InvalidInput: *limit* is no whole number from 1 to 100 000.
            PrivilegeRequired: the unit of work has no service role.
        """
        return self._run(maintenance.verify(limit))

    def seal(self, seals: Iterable[Seal] = (), *, key: bytes) -> tuple[Seal, ...]:
        """Seal the transactions of every tenant that were recorded since the given seals.

        Reads and computes, writes nothing, and blocks no other call. Keep the seals and the key
        where no owner of the database can write. Needs memory for each tenant with new
        transactions.

        Args:
            seals: All seals of this key, or the last one of each tenant. None the first time.
            key: 32 to 64 random bytes, as of `secrets.token_bytes(32)`.

        Returns:
            The new seals: one for each thousand transactions of a tenant, and one for its last.

        Raises:
            InvalidInput: *key* is no key, or not the key of *seals*.
            PrivilegeRequired: the unit of work has no service role.
        """
        return self._run(maintenance.seal(seals, key))

    def verify_seals(self, seals: Iterable[Seal], *, key: bytes) -> tuple[Violation, ...]:
        """Compare every sealed transaction with its seal.

        Finds a sealed transaction that was changed, inserted, moved or deleted, with its postings,
        its claim of a payment and the terms of its grant, however consistent the edit is.

        Args:
            seals: The seals that `seal` returned, in any order.
            key: The key that made them.

        Returns:
            The first difference of each tenant: the tenant, and the positions between one seal and
            the next.

        Raises:
            InvalidInput: *key* is no key, or not the key of *seals*.
            PrivilegeRequired: the unit of work has no service role.
        """
        return self._run(maintenance.verify_seals(seals, key))
