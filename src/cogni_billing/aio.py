"""`AsyncBilling` and `AsyncPaymentAttempts` for asyncio: the same calls, each awaited.

A task that is cancelled at any await leaves its whole call or nothing; call again with the same
key to learn which. Derived by `tools/write_aio.py`: change `billing.py` and `attempts.py` instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from cogni_billing.application import attempts, maintenance, minting, reading, reversals, spending
from cogni_billing.application.asking import ANSWERS_WITHIN, Verifier
from cogni_billing.application.cases import Case, Result, checked_async_unit_of_work
from cogni_billing.application.context import Context
from cogni_billing.domain.accounts import Account
from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.attempts import (
    DEFAULT_RULES,
    Attempt,
    AttemptEvent,
    AttemptRules,
    Finding,
    Intent,
    IntentRequest,
)
from cogni_billing.domain.batches import Outcome
from cogni_billing.domain.charges import Charge
from cogni_billing.domain.destinations import Destination
from cogni_billing.domain.disputes import Dispute, DisputeRequest
from cogni_billing.domain.folding import Folding
from cogni_billing.domain.grants import PRIORITY_DEFAULT, Grant, GrantRequest
from cogni_billing.domain.holds import CaptureRequest, Hold, HoldRequest
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.policies import Policies, Shortfall
from cogni_billing.domain.purchases import Purchase
from cogni_billing.domain.receipts import (
    CaptureReceipt,
    ChargebackReceipt,
    ChargeReceipt,
    GrantReceipt,
    PurchaseReceipt,
    RefundReceipt,
)
from cogni_billing.domain.reversals import ReversalRequest
from cogni_billing.domain.statements import Balance, Page, TransactionView
from cogni_billing.domain.verification import Verification
from cogni_billing.ports.environment import Clock, IdSource
from cogni_billing.ports.payments import AsyncPaymentVerifier
from cogni_billing.ports.scope import AsyncUnitOfWork


class AsyncBilling:
    """Prepaid credits for many tenants, over one unit of work.

    Safe to share between tasks, like both units of work that come with the library.

    Args:
        unit_of_work: Where the ledger lives.
        policy: Who gets what of a purchase: a `RevenueSharePolicy`, or `RevenueSharePolicies` that
            follow one another; by default 25 % on top for the system tenant.
        clock: Tells the time; by default the unit of work's own, the system's.
        ids: Makes transaction ids; by default the unit of work's own, UUIDv7.

    Every method may raise `InvalidTenant` (the tenant is no `uuid.UUID`, or is nil or reserved),
    `LedgerUnavailable` (nothing was written) and, when it writes, `OutcomeUnknown` (call again
    with the same key). A call with the key of an earlier one and the same request returns that
    one's outcome with `replayed`; with another request it raises `IdempotencyConflict`, which
    names each difference. A refused call records nothing, except expirations that were already
    due, and its key stays free.
    """

    def __init__(
        self,
        unit_of_work: AsyncUnitOfWork,
        *,
        policy: Policies | None = None,
        clock: Clock | None = None,
        ids: IdSource | None = None,
    ) -> None:
        self._unit_of_work = checked_async_unit_of_work(unit_of_work)
        self._context = Context.over(unit_of_work, policy, clock, ids)

    @property
    def unit_of_work(self) -> AsyncUnitOfWork:
        """The unit of work that the calls run on."""
        return self._unit_of_work

    @property
    def policy(self) -> Policies:
        """The policy of new purchases."""
        return self._context.policy

    @property
    def clock(self) -> Clock:
        """The clock of the calls."""
        return self._context.clock

    async def _run(self, case: Case[Result]) -> Result:
        return await case.on_async(self._unit_of_work)

    async def open_account(self, tenant: TenantId | UUID) -> Account:
        """The tenant's account, opened now if there is none; concurrent calls agree."""
        return await self._run(minting.open_account(self._context, tenant))

    async def confirm_purchase(
        self,
        tenant: TenantId | UUID,
        amount: Amount,
        *,
        payment: str,
        metadata: Mapping[str, object] | None = None,
    ) -> PurchaseReceipt:
        """Credit a confirmed payment: the customer in full, and each beneficiary its share.

        One atomic, balanced transaction. The account is opened if there is none. The key is the
        payment; a replay has the shares of the policy that was in force the first time.

        Args:
            tenant: Who paid.
            amount: What was paid, in USD or USDC, greater than zero. It becomes credits at
                10 000 000 for a dollar, rounded up; shares of them are rounded down.
            payment: The evidence, `provider:id`, 1 to 255 visible ASCII characters; a
                transaction's hash on a chain in small letters. It can be claimed once in the whole
                system.
            metadata: A JSON object kept with the transaction.

        Raises:
            InvalidAmount, UnitMismatch, InvalidReference, InvalidMetadata: an argument breaks its
                rule.
            InvalidPolicy: the policy is not yet in force.
            IdempotencyConflict: the tenant confirmed this payment with another amount.
            PaymentAlreadyClaimed: another tenant confirmed this payment.
        """
        purchase = Purchase(tenant=tenant, amount=amount, payment=payment, metadata=metadata)
        return await self._run(minting.confirm_purchase(self._context, purchase))

    async def confirm_purchases(
        self,
        purchases: Iterable[Purchase | Mapping[str, Any]],
        *,
        all_or_nothing: bool = False,
    ) -> tuple[Outcome[PurchaseReceipt], ...]:
        """Credit many confirmed payments, in one transaction for each tenant.

        Each is as if it were confirmed alone, in the order given. What is refused stops no other,
        and one payment twice is once, and replayed.

        Args:
            purchases: Of each the arguments of `confirm_purchase`: a `Purchase`, or a mapping of
                what makes one.
            all_or_nothing: Whether a tenant's purchases are all recorded or none of them. Other
                tenants' are not concerned.

        Returns:
            For each, in their order, an `Outcome`: done or replayed, with its receipt, or refused,
            with its error. Where a scope failed as a whole, all of its tenant's are refused with
            that error; calling again with the same payments is safe.

        Raises:
            InvalidInput: *purchases* is no iterable, or *all_or_nothing* is no bool.
        """
        return await self._run(
            minting.confirm_purchases(self._context, purchases, all_or_nothing=all_or_nothing)
        )

    async def charge(
        self,
        tenant: TenantId | UUID,
        amount: Amount,
        *,
        reference: str,
        allow_overdraft: bool = False,
        metadata: Mapping[str, object] | None = None,
    ) -> ChargeReceipt:
        """Take credits that the tenant's work consumed.

        Args:
            tenant: Who pays.
            amount: In CREDIT, greater than zero; `charge_for` makes it from a cost.
            reference: The key, unique among the tenant's charges: 1 to 255 visible ASCII
                characters.
            allow_overdraft: Record it even if it leaves the account below zero, because its cost
                was incurred already.
            metadata: A JSON object kept with the transaction.

        Raises:
            InvalidAmount, UnitMismatch, InvalidReference, InvalidMetadata: an argument breaks its
                rule.
            UnknownAccount: the tenant has no account.
            InsufficientCredits: less is available. Under any concurrency, available credits never
                go below zero unless the call allows it.
            IdempotencyConflict: the tenant used this reference for another charge.
        """
        charge = Charge(
            tenant=tenant,
            amount=amount,
            reference=reference,
            allow_overdraft=allow_overdraft,
            metadata=metadata,
        )
        return await self._run(spending.charge(self._context, charge))

    async def charge_many(
        self,
        charges: Iterable[Charge | Mapping[str, Any]],
        *,
        all_or_nothing: bool = False,
    ) -> tuple[Outcome[ChargeReceipt], ...]:
        """Take the credits of many charges, in one transaction for each tenant.

        Like `confirm_purchases`, for `charge`.

        Args:
            charges: Of each the arguments of `charge`: a `Charge`, or a mapping of what makes one.
            all_or_nothing: Whether a tenant's charges are all recorded or none of them.

        Raises:
            InvalidInput: *charges* is no iterable, or *all_or_nothing* is no bool.
        """
        return await self._run(
            spending.charge_many(self._context, charges, all_or_nothing=all_or_nothing)
        )

    async def hold(
        self,
        tenant: TenantId | UUID,
        amount: Amount,
        *,
        reference: str,
        expires_at: datetime | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Hold:
        """Set credits aside before their cost is known; `capture` takes what it came to.

        Args:
            tenant: Whose credits.
            amount: In CREDIT, greater than zero.
            reference: The key, unique among the tenant's holds: 1 to 255 visible ASCII characters.
            expires_at: When the credits are available again by themselves; timezone-aware, in the
                future. `None` keeps them aside until the hold is captured or released.
            metadata: A JSON object kept with the hold.

        Returns:
            The hold. On a replay it is in its present state.

        Raises:
            InvalidAmount, UnitMismatch, InvalidReference, InvalidMetadata: an argument breaks its
                rule.
            InvalidTime: *expires_at* is naive, or has passed.
            UnknownAccount: the tenant has no account.
            InsufficientCredits: less is available.
            IdempotencyConflict: the tenant used this reference for another hold.
        """
        request = HoldRequest(
            tenant=tenant,
            amount=amount,
            reference=reference,
            expires_at=expires_at,
            metadata=metadata,
        )
        return await self._run(spending.hold(self._context, request))

    async def capture(
        self,
        tenant: TenantId | UUID,
        hold_id: UUID,
        amount: Amount,
        *,
        reference: str,
        metadata: Mapping[str, object] | None = None,
    ) -> CaptureReceipt:
        """Take what the held work came to; the rest of the hold is available again.

        A hold is captured once. What it set aside can be taken even when an overdraft has used up
        everything else.

        Args:
            tenant: Who pays.
            hold_id: The `id` of the hold.
            amount: In CREDIT, greater than zero, at most what is held.
            reference: The key, unique among the tenant's captures.
            metadata: A JSON object kept with the transaction.

        Raises:
            InvalidAmount, UnitMismatch, InvalidReference, InvalidMetadata, InvalidInput: an
                argument breaks its rule.
            UnknownAccount: the tenant has no account.
            InsufficientCredits: less is held.
            IdempotencyConflict: the tenant used this reference for another capture.
            UnknownHold: the tenant has no such hold.
            HoldClosed: it was captured or released before, or has expired.
        """
        request = CaptureRequest(
            tenant=tenant,
            hold_id=hold_id,
            amount=amount,
            reference=reference,
            metadata=metadata,
        )
        return await self._run(spending.capture(self._context, request))

    async def release(self, tenant: TenantId | UUID, hold_id: UUID) -> Hold:
        """Give back what a hold set aside. Releasing it again changes nothing.

        Raises:
            InvalidInput: *hold_id* is no `uuid.UUID`.
            UnknownAccount: the tenant has no account.
            UnknownHold: the tenant has no such hold.
            HoldClosed: it was captured, or has expired.
        """
        return await self._run(spending.release(self._context, tenant, hold_id))

    async def grant(
        self,
        tenant: TenantId | UUID,
        amount: Amount,
        *,
        source: str,
        reference: str,
        expires_at: datetime | None = None,
        priority: int = PRIORITY_DEFAULT,
        metadata: Mapping[str, object] | None = None,
    ) -> GrantReceipt:
        """Give the tenant credits that it did not pay for, such as a promotion.

        They are spent before purchased credits. What is left of them when they expire is taken, in
        a balanced transaction of its own, as of that very moment.

        Args:
            tenant: Who gets them. The account is opened if there is none.
            amount: In CREDIT, greater than zero.
            source: Where they come from, such as `promo:launch`; 1 to 255 visible ASCII
                characters.
            reference: The key, unique among the tenant's grants.
            expires_at: When what is left of them expires; timezone-aware, in the future. What a
                hold has set aside by then expires when the hold ends without using it. `None`
                for never.
            priority: From 0 to 1 000 000. The lowest is spent first; of equals, what expires
                first; then what is oldest.
            metadata: A JSON object kept with the transaction.

        Raises:
            InvalidAmount, UnitMismatch, InvalidReference, InvalidMetadata, InvalidInput: an
                argument breaks its rule.
            InvalidTime: *expires_at* is naive, or has passed.
            IdempotencyConflict: the tenant used this reference for another grant.
        """
        request = GrantRequest(
            tenant=tenant,
            amount=amount,
            source=source,
            reference=reference,
            expires_at=expires_at,
            priority=priority,
            metadata=metadata,
        )
        return await self._run(minting.grant(self._context, request))

    async def grants(self, tenant: TenantId | UUID) -> tuple[Grant, ...]:
        """The tenant's grants with something left, in the order in which they are spent.

        Raises:
            UnknownAccount: the tenant has no account.
        """
        return await self._run(reading.grants(self._context, tenant))

    async def refund(
        self,
        tenant: TenantId | UUID,
        *,
        payment: str,
        amount: Amount | None = None,
        reference: str,
        shortfall: Shortfall = Shortfall.DEBT,
        metadata: Mapping[str, object] | None = None,
    ) -> RefundReceipt:
        """Take back what a payment gave, in full or in part: its credits, and every share.

        Each leg goes back to floor(leg x returned so far / paid), so parts add up, and at 100 %
        every leg is at exactly zero.

        Args:
            tenant: Who paid.
            payment: The payment of the purchase.
            amount: How much of it was returned, in the unit that was paid; `None` for all that
                remains.
            reference: The key, unique among the tenant's refunds.
            shortfall: What to do where the customer has spent the credits: `Shortfall.DEBT` lets
                the account go below zero; `Shortfall.CLAMP` takes what is there, purchased credits
                before granted ones, and the platform's `shortfall` account absorbs the rest. Of
                the beneficiaries the purchase's policy says it, in `clawback`.
            metadata: A JSON object kept with the transaction.

        Raises:
            InvalidAmount, InvalidReference, InvalidMetadata, InvalidInput: an argument breaks its
                rule.
            UnitMismatch: *amount* is in another unit than what was paid.
            PrivilegeRequired: the unit of work has no service role.
            UnknownAccount: the tenant has no account.
            IdempotencyConflict: the tenant used this reference for another refund.
            UnknownPayment: the tenant has confirmed no such payment.
            RefundExceedsPayment: less remains of it, or nothing.
        """
        request = ReversalRequest(
            tenant=tenant,
            payment=payment,
            amount=amount,
            reference=reference,
            shortfall=shortfall,
            metadata=metadata,
        )
        return await self._run(reversals.refund(self._context, request))

    async def open_dispute(
        self,
        tenant: TenantId | UUID,
        *,
        payment: str,
        reference: str,
        amount: Amount | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Dispute:
        """Set aside what a disputed payment gave, until the dispute is won or lost.

        The customer's credits and every share, also where more is set aside than is available. A
        payment can have several disputes, of a part each.

        Args:
            tenant: Who paid.
            payment: The payment of the purchase.
            reference: The key, unique among the tenant's disputes; the provider's id of it.
            amount: How much of the payment is disputed, in the unit that was paid; `None` for all
                that remains.
            metadata: A JSON object kept with the dispute.

        Raises:
            What `refund` raises; RefundExceedsPayment also where more is disputed than remains.
        """
        request = DisputeRequest(
            tenant=tenant,
            payment=payment,
            amount=amount,
            reference=reference,
            metadata=metadata,
        )
        return await self._run(reversals.open_dispute(self._context, request))

    async def win_dispute(
        self,
        tenant: TenantId | UUID,
        *,
        payment: str,
        reference: str,
    ) -> Dispute:
        """Give back exactly what the dispute had set aside. Winning it again changes nothing.

        Raises:
            InvalidReference: *payment* or *reference* breaks its rule.
            PrivilegeRequired: the unit of work has no service role.
            UnknownAccount: the tenant has no account.
            UnknownDispute: it was not opened, or is of another payment. Where events come out of
                order, let the provider send this one again.
            DisputeClosed: it was lost.
        """
        return await self._run(
            reversals.win_dispute(self._context, tenant, payment=payment, reference=reference)
        )

    async def lose_dispute(
        self,
        tenant: TenantId | UUID,
        *,
        payment: str,
        reference: str,
        shortfall: Shortfall = Shortfall.DEBT,
        metadata: Mapping[str, object] | None = None,
    ) -> ChargebackReceipt:
        """Take back what was disputed, for good, as `refund` does.

        Raises:
            What `refund` and `win_dispute` raise; DisputeClosed: it was won.
        """
        request = ReversalRequest(
            tenant=tenant,
            payment=payment,
            reference=reference,
            shortfall=shortfall,
            metadata=metadata,
        )
        return await self._run(reversals.lose_dispute(self._context, request))

    async def balance(self, tenant: TenantId | UUID, *, at: datetime | None = None) -> Balance:
        """The tenant's credits: posted, held and available; now, or as of a moment.

        Args:
            tenant: Whose.
            at: The moment, timezone-aware; what was posted until then, then included, counts.

        Raises:
            InvalidTime: *at* is naive.
            UnknownAccount: the tenant has no account.
        """
        return await self._run(reading.balance(self._context, tenant, at=at))

    async def statement(
        self,
        tenant: TenantId | UUID,
        *,
        limit: int = 50,
        after: str | None = None,
        kind: TransactionKind | str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Page:
        """The tenant's postings, newest first, *limit* at a time (1 to 1000).

        Args:
            tenant: Whose.
            limit: How many lines at most.
            after: The `next` of the page before, or `None` for the first.
            kind: Only postings of this kind of transaction.
            since: Only postings of this moment or later; timezone-aware.
            until: Only postings before this moment; timezone-aware.

        Raises:
            InvalidTime: *since* or *until* is naive.
            InvalidPage: *limit* or *after* breaks its rule.
            InvalidInput: *kind* is none.
            UnknownAccount: the tenant has no account.
        """
        return await self._run(
            reading.statement(tenant, limit=limit, after=after, kind=kind, since=since, until=until)
        )

    async def find(
        self, tenant: TenantId | UUID, *, reference: str, kind: TransactionKind | str
    ) -> TransactionView | None:
        """The tenant's transaction with this key, if there is one.

        Args:
            tenant: Whose.
            reference: The key; of a purchase, its payment.
            kind: Of which kind: a key is unique among a tenant's transactions of one kind.

        Raises:
            InvalidReference: *reference* breaks its rule.
            InvalidInput: *kind* is none.
            UnknownAccount: the tenant has no account.
        """
        return await self._run(reading.find(tenant, reference=reference, kind=kind))

    async def transaction(
        self, tenant: TenantId | UUID, transaction_id: UUID
    ) -> TransactionView | None:
        """The tenant's own transaction with this id, if there is one, with its own postings.

        Raises:
            InvalidInput: *transaction_id* is no `uuid.UUID`.
            UnknownAccount: the tenant has no account.
        """
        return await self._run(reading.transaction(tenant, transaction_id))

    async def fold(self) -> Folding:
        """Checkpoint the accounts that others add to, such as the system tenant's.

        Their balances are the same before and after, and quicker to read after. Run it now and
        then; it holds nobody up, and loses nothing that is being recorded meanwhile.

        Raises:
            PrivilegeRequired: the unit of work has no service role.
            LedgerUnavailable: somebody has had a transaction open on the ledger for very long.
        """
        return await self._run(maintenance.fold())

    async def sweep(self) -> int:
        """Record what time brought about and nobody has touched since; how many wallets it was.

        Expired holds end and expired grants lapse without it, as far as balances and calls are
        concerned; it brings them into the statements of tenants who are idle. Run it now and then.
        Each wallet is settled in a transaction of its own, and stays so. One that cannot be keeps
        no other from it; the worst of their errors is raised in the end.

        Raises:
            PrivilegeRequired: the unit of work has no service role.
            LedgerUnavailable: some wallet could not be settled now.
            OutcomeUnknown: some wallet may have been settled; sweep again.
            LedgerCorruption: some wallet cannot be settled; look at its tenant.
        """
        return await self._run(maintenance.sweep(self._context))

    async def verify(self, *, most: int = 1000) -> Verification:
        """Check every invariant that data can show, over the whole ledger.

        It reads everything, set by set, in bounded memory; nobody waits for it. It judges records
        by themselves: shares by the policy that their purchase recorded, never by today's.

        Args:
            most: How many violations of each rule to report at most.

        Returns:
            A `Verification`: `ok`, or the violations with the ids that locate them. It repairs
            nothing.

        Raises:
            InvalidInput: *most* is no whole number from 1 to 100 000.
            PrivilegeRequired: the unit of work has no service role.
        """
        return await self._run(maintenance.verify(most))


class AsyncPaymentAttempts:
    """Takes intents to pay, and evidence that somebody did; credits what a verifier confirms.

    Safe to share between tasks. One attempt is credited once, by one transaction that records
    the purchase with its shares, the attempt's new state and its history.

    Args:
        unit_of_work: The ledger, as for `AsyncBilling`. It must not join a host's transaction,
            which would be open while the verifier is asked.
        verifier: Looks payments up. Its findings are judged here, against the intent.
        destinations: Where payments may go, one for each provider; the first by default.
        policy: As for `AsyncBilling`: who gets what of a purchase.
        rules: How much may be paid, and how long each step is waited for.
        answers_within: How long the verifier has. A later answer is ignored and the attempt stays
            pending.
        clock, ids: As for `AsyncBilling`.

    Raises:
        InvalidInput: *destinations*, *rules* or *answers_within* is something else.
        InvalidPolicy: *policy* is none.
    """

    def __init__(
        self,
        unit_of_work: AsyncUnitOfWork,
        *,
        verifier: AsyncPaymentVerifier,
        destinations: Destination | Iterable[Destination],
        policy: Policies | None = None,
        rules: AttemptRules = DEFAULT_RULES,
        answers_within: timedelta = ANSWERS_WITHIN,
        clock: Clock | None = None,
        ids: IdSource | None = None,
    ) -> None:
        self._unit_of_work = checked_async_unit_of_work(unit_of_work)
        billing = Context.over(unit_of_work, policy, clock, ids)
        self._context = attempts.AttemptContext(
            billing, Verifier(verifier, answers_within), destinations, rules
        )

    async def _run(self, case: Case[Result]) -> Result:
        return await case.on_async(self._unit_of_work)

    async def create_intent(
        self,
        tenant: TenantId | UUID,
        amount: Amount,
        *,
        payer: str | None = None,
        provider: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Intent:
        """Record what *tenant* is going to pay; the intent says where, and how much exactly.

        Args:
            tenant: Who will be credited. It needs no account yet.
            amount: US dollars, within the bounds of the rules: 2.00 to 10 000.00 by default.
            payer: The address that will pay; needed on a chain, where anybody can see a payment
                and claim it. That it is the tenant's own is for the host to make sure of.
            provider: Which destination, where there are several.
            metadata: Of the host's; the purchase has it, too.

        Raises:
            InvalidTenant, InvalidAmount, UnitMismatch, InvalidReference, InvalidMetadata,
            InvalidInput: an argument breaks its rule.
            PrivilegeRequired: the ledger's role may not mint.
        """
        request = IntentRequest(
            tenant=tenant,
            amount=amount,
            payer=payer,
            provider=provider,
            metadata=metadata,
        )
        return await self._run(attempts.create_intent(self._context, request))

    async def submit(self, tenant: TenantId | UUID, attempt_id: UUID, evidence: str) -> Attempt:
        """Say that the intent was paid, and have that verified at once.

        The same evidence again is answered as `status` is. An intent that has expired fails.

        Args:
            tenant: Whose.
            attempt_id: The intent's.
            evidence: `provider:id`, which is `chain_id:tx_hash` on a chain.

        Raises:
            InvalidTenant, InvalidInput, InvalidReference: an argument breaks its rule; evidence
                is of another provider than the intent's.
            UnknownAttempt: the tenant has no such attempt.
            IdempotencyConflict: other evidence was submitted for it.
            PaymentAlreadyClaimed: the payment is, or may yet be, credited to another attempt or
                by a purchase.
            PrivilegeRequired: the ledger's role may not mint.
            VerifierFailed: the verifier broke. The evidence is recorded; ask for the status later.
        """
        return await self._run(attempts.submit(self._context, tenant, attempt_id, evidence))

    async def report(
        self, tenant: TenantId | UUID, attempt_id: UUID, evidence: str, finding: Finding
    ) -> Attempt:
        """`submit`, with what is known of the payment already, as a signed webhook tells it.

        No verifier is asked, and no turn waited for: the finding is judged at once, and what it
        leads to recorded, in one transaction. Saying it again has the same answer.

        Args:
            tenant: Whose.
            attempt_id: The intent's.
            evidence: `provider:id`.
            finding: From a source that the host trusts like a verifier.

        Raises:
            InvalidTenant, InvalidInput, InvalidReference: an argument breaks its rule.
            UnknownAttempt, IdempotencyConflict, PaymentAlreadyClaimed, PrivilegeRequired: as
                `submit` and `status` do.
        """
        return await self._run(
            attempts.report(self._context, tenant, attempt_id, evidence, finding)
        )

    async def status(self, tenant: TenantId | UUID, attempt_id: UUID) -> Attempt:
        """The attempt as it is now; while it is pending the verifier is asked, now and then.

        Raises:
            InvalidTenant, InvalidInput: an argument breaks its rule.
            UnknownAttempt: the tenant has no such attempt.
            PaymentAlreadyClaimed, IdempotencyConflict: the payment is verified, and was credited
                meanwhile to another tenant, or with another amount, without this attempt.
            PrivilegeRequired: the ledger's role may not mint.
            VerifierFailed: the verifier broke; the attempt waits.
        """
        return await self._run(attempts.status(self._context, tenant, attempt_id))

    async def sweep(self) -> int:
        """Have the verifier asked about every attempt whose turn it is, whosever it is, and let
        intents expire; how many ended. Run it now and then: not everybody asks for a status.

        One that fails keeps no other from it; the worst of their errors is raised in the end.

        Raises:
            PrivilegeRequired: the unit of work has no service role.
            VerifierFailed, PaymentAlreadyClaimed, IdempotencyConflict, LedgerUnavailable: some
                attempt could not be settled; see `status`.
        """
        return await self._run(attempts.sweep(self._context))

    async def history(self, tenant: TenantId | UUID, attempt_id: UUID) -> tuple[AttemptEvent, ...]:
        """What has become of the attempt so far, in order; the first is the intent.

        Raises:
            InvalidTenant, InvalidInput: an argument breaks its rule.
            UnknownAttempt: the tenant has no such attempt.
        """
        return await self._run(attempts.history(tenant, attempt_id))
