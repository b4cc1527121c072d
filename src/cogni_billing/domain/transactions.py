"""Transactions. A transaction's postings sum to zero in every unit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from uuid import UUID

from attrs import evolve, frozen

from cogni_billing.domain import requests
from cogni_billing.domain.amounts import CREDIT, ZERO, Amount, total
from cogni_billing.domain.errors import UnbalancedTransaction, unknown_kind
from cogni_billing.domain.identity import (
    BREAKAGE,
    AccountId,
    TenantId,
    account_of,
    owner_of,
)
from cogni_billing.domain.kinds import KindRules, TransactionKind, rules_of
from cogni_billing.domain.metadata import EMPTY, Json
from cogni_billing.domain.policies import Shortfall
from cogni_billing.domain.shares import Share
from cogni_billing.domain.timestamps import Expiry


class Overrun(StrEnum):
    """The rule for a captured cost above the credits that the hold still holds."""

    REFUSE = "refuse"
    """Raise `InsufficientCredits`."""
    AVAILABLE = "available"
    """Take the excess from the available credits, or raise `InsufficientCredits`."""
    OVERDRAFT = "overdraft"
    """Take the excess in any case, because the cost was already incurred."""


@frozen
class Posting:
    """A signed amount on one account. A positive amount raises the account's balance."""

    account: AccountId
    amount: Amount

    @property
    def tenant(self) -> TenantId:
        """The owner of the account, the only tenant that may read this posting."""
        return owner_of(self.account)


def imbalance(postings: Iterable[Posting]) -> tuple[Amount, ...]:
    """The sums of *postings*, one for each unit in which the sum is not zero."""
    postings = tuple(postings)
    units = {posting.amount.unit: None for posting in postings}
    sums = (total((p.amount for p in postings if p.amount.unit is u), u) for u in units)
    return tuple(excess for excess in sums if not excess.is_zero)


def balanced(
    kind: TransactionKind,
    tenant: TenantId,
    amount: Amount,
    shares: Iterable[Share] = (),
    absorbed: Amount = ZERO,
    *,
    lapsed: Amount = ZERO,
) -> tuple[Posting, ...]:
    """The postings of *kind*, in order.

    The tenant's account changes by *amount*, each beneficiary's account by its share, the account
    that absorbs for the kind by *absorbed*, and `breakage` by *lapsed*, in the direction of the
    kind. The kind's contra account takes the other side, which may be zero. Another zero makes
    no posting, except on the tenant's own account. A refund or a chargeback of a very small part
    may consist of that posting alone.
    """
    legs = [Posting(account_of(tenant), amount)]
    legs += [Posting(share.beneficiary, share.amount) for share in shares if share.amount.value]
    if absorbed.value and kind.absorbs is not None:
        legs.append(Posting(kind.absorbs, absorbed if kind.is_credit else -absorbed))
    if lapsed.value:
        legs.append(Posting(BREAKAGE, lapsed if kind.is_credit else -lapsed))
    other_side = -total((leg.amount for leg in legs), amount.unit)
    if other_side.value or not kind.reverses:
        legs.append(Posting(kind.contra, other_side))
    return tuple(legs)


@frozen(kw_only=True)
class GrantTerms:
    """The terms of a grant: its source, its place in the spend order, and its expiry."""

    source: str
    priority: int
    expires_at: datetime | None = None
    expires_in: timedelta | None = None
    """The lifetime from which `expires_at` follows, if the caller gave one."""
    effective_from: datetime | None = None
    """The moment at which the grant begins, if the caller gave one."""

    def waits(self, present: datetime) -> bool:
        """True if the grant begins after *present*."""
        return self.effective_from is not None and self.effective_from > present

    @property
    def expiry(self) -> Expiry:
        """The expiry as the caller gave it."""
        return Expiry.stored(self.expires_at, self.expires_in)


@frozen(kw_only=True)
class LotTerms:
    """The expiry of the credits of a purchase, and the lifetime from which it follows."""

    expires_at: datetime
    expires_in: timedelta


@frozen
class Draw:
    """An amount that was spent, or set aside by a hold, of credits with an order of their own.

    They are credits of a grant, or of a purchase whose credits expire.
    """

    grant_id: UUID
    """The id of the grant, or of the purchase."""
    amount: Amount
    purchased: bool = False
    """True if they are credits of a purchase."""


def drawn(draws: Iterable[Draw]) -> Amount:
    """The sum of *draws*."""
    return total((draw.amount for draw in draws), CREDIT)


def first_of(draws: Iterable[Draw], wanted: Amount) -> tuple[Draw, ...]:
    """Up to *wanted* of the credits in *draws*, in their order."""
    parts = list[Draw]()
    for draw in draws:
        part = min(draw.amount, wanted)
        if part.is_positive:
            wanted -= part
            parts.append(evolve(draw, amount=part))
    return tuple(parts)


def granted_in(draws: Iterable[Draw]) -> Amount:
    """The granted credits in *draws*, without those of purchases."""
    return total((draw.amount for draw in draws if not draw.purchased), CREDIT)


def granted_part(kind: TransactionKind, amount: Amount, of_grants: Amount) -> Amount:
    """The granted credits in *amount*, with its sign. The draws of the transaction have
    *of_grants* granted ones. The rest is purchased credits.
    """
    if kind.is_granted:  # a grant draws its own credits to repay a debt
        return amount - of_grants
    if of_grants.is_zero:
        return ZERO
    return of_grants if kind.is_credit else -of_grants


@frozen(kw_only=True)
class Reversal:
    """The part of a purchase that a refund or a chargeback takes back, in the payment's unit.

    A reinstatement gives the part back.
    """

    purchase: UUID
    payment: str
    amount: Amount
    total: Amount
    """The amount returned of the payment right after this part."""
    asked: Amount | None = None
    """The part of the payment that the processor returned. It is larger than `amount` if refunds
    and lost disputes exceed the payment. `None` for `amount`.
    """
    up_to: Amount | None = None
    """The total of refunds, if the caller asked for one."""
    shortfall: Shortfall | None = None
    """The caller's choice for credits that are already spent. A reinstatement has none."""
    refund: str | None = None
    """The reference of the refund that a reinstatement undoes."""


@frozen(kw_only=True)
class GivingBack:
    """The part of a charge or a capture that a reversal gives back, in credits.

    The caller names the charge by its id or by its reference, and the ledger fills in the rest.
    """

    charge: UUID | None
    """The id of the charge. `None` in a plan that names the charge by its reference."""
    reference: str | None
    """The reference of the charge. `None` in a plan that names it by its id, and for a capture."""
    asked: Amount | None
    """The amount that the caller asked for. `None` if the caller asked for all that remained."""
    amount: Amount = ZERO
    total: Amount = ZERO
    """The credits given back so far, including this part."""

    @property
    def named(self) -> str:
        """The name of the charge in a request."""
        return self.reference or f"transaction {self.charge}"

    def named_like(self, other: GivingBack) -> GivingBack:
        """This part, with the charge named by its id if *other* does so."""
        return evolve(self, reference=None) if other.reference is None else self


@frozen(kw_only=True)
class Transaction:
    """An immutable, atomic set of postings that sums to zero. No other can be constructed.

    A caller gives the amount, the shares and the absorbed shortfall. The postings and the request
    follow from them. The fields must fit the rules of the kind in `KINDS`.

    Raises:
        UnbalancedTransaction: a field does not fit the kind, the kind is unknown, or the postings
            do not sum to zero.
    """

    id: UUID
    tenant: TenantId
    kind: TransactionKind
    reference: str
    at: datetime
    amount: Amount
    """The change of the tenant's own account."""
    paid: Amount | None = None
    """The payment of a purchase, in its own unit."""
    shares: tuple[Share, ...] = ()
    policy: Mapping[str, Json] = EMPTY
    """Every input of the shares, so that `verify` can compute them again from the record."""
    metadata: Mapping[str, Json] = EMPTY
    overdraft: bool = False
    """True if it may take more than is available, because the cost was already incurred."""
    at_most: Amount | None = None
    """The amount that a charge was asked for, if it may take less."""
    occurred_at: datetime | None = None
    """The moment of the usage, if the charge reports it late."""
    subject: UUID | None = None
    """The hold of a capture, the grant of an expiry or a void, the dispute of a chargeback, or the
    refund or the dispute of a reinstatement.
    """
    final: bool = True
    """False for a capture that leaves its hold open."""
    overrun: Overrun = Overrun.REFUSE
    """The rule of a capture for a cost above the held credits."""
    terms: GrantTerms | None = None
    """The terms of a grant."""
    lot: LotTerms | None = None
    """The expiry of a purchase's credits. `None` if they never expire."""
    absorbed: Amount = ZERO
    """The part that the `shortfall` account pays of a refund or a chargeback, and that a
    reinstatement gives back to it. The part of a reversal that goes to `breakage`.
    """
    lapsed: Amount = ZERO
    """The expired credits of its purchase that a refund or a chargeback takes from `breakage`, and
    that a reinstatement gives back to it.
    """
    reversal: Reversal | None = None
    """The part of a purchase that a refund or a chargeback takes back, or a reinstatement gives
    back.
    """
    giving_back: GivingBack | None = None
    """The part of a charge that a reversal gives back."""
    reason: str | None = None
    """The reason for an adjustment, a void or a reversal."""
    actor: str | None = None
    """The person or the program that made the call, as `acting` named it."""

    def __attrs_post_init__(self) -> None:
        for problem in self._problems():
            raise UnbalancedTransaction(f"a {self.kind} {problem}")
        if excess := imbalance(self.postings):
            raise UnbalancedTransaction("postings do not sum to zero", excess)

    def _problems(self) -> Iterator[str]:
        kind, rules = self.kind, rules_of(self.kind)
        change = self.amount.value
        fits = rules.corrects or rules.opens_balance or rules.is_credit is (change > 0)
        if not (fits if change else rules.may_be_zero):
            yield f"of {self.amount}"
        if self.shares and not rules.has_shares:
            yield f"with {len(self.shares)} shares"
        if self.absorbed.value and rules.absorbs is None:
            yield f"with {self.absorbed} absorbed"
        if (self.shares or self.absorbed.value or self.lapsed.value) and any(
            part.unit is not self.amount.unit for part in self._parts()
        ):
            yield "in more than one unit"
        if (self.subject is None) is not (rules.subject is None):
            yield f"with subject {self.subject}, where {rules.subject or 'none'} was expected"
        if (self.paid is None) is (kind is TransactionKind.PURCHASE):
            yield f"with paid {self.paid}"
        if (self.terms is None) is (kind is TransactionKind.GRANT):
            yield f"with terms {self.terms}"
        if (self.reversal is None) is rules.reverses:
            yield f"with reversal {self.reversal}"
        yield from self._problems_of_rare_fields(rules)

    def _problems_of_rare_fields(self, rules: KindRules) -> Iterator[str]:
        kind, limit = self.kind, self.at_most
        if limit is not None and (
            self.overdraft or not rules.is_plain_debit or -self.amount > limit
        ):
            yield f"of at most {limit}"
        if self.occurred_at is not None and not rules.is_plain_debit:
            yield f"that occurred at {self.occurred_at}"
        if self.lot is not None and kind is not TransactionKind.PURCHASE:
            yield f"with expiry {self.lot.expires_at}"
        if self.lapsed.value and (self.lapsed.is_negative or not rules.reverses):
            yield f"with {self.lapsed} lapsed"
        if (self.giving_back is None) is (kind is TransactionKind.REVERSAL):
            yield f"with {self.giving_back} given back"
        if rules.corrects if self.reason is None else not _may_have_reason(kind):
            yield f"with reason {self.reason}"
        plain = self.final and self.overrun is Overrun.REFUSE
        if not plain and kind is not TransactionKind.CAPTURE:
            yield "with the rules of a capture"

    def _parts(self) -> Iterator[Amount]:
        yield from (share.amount for share in self.shares)
        yield from (part for part in (self.absorbed, self.lapsed) if part.value)

    @cached_property
    def postings(self) -> tuple[Posting, ...]:
        """The postings of its kind, in order: the tenant's own account, each beneficiary whose
        share is not zero, the account that absorbs a part if there is one, `breakage` if expired
        credits are taken back, and the contra account.
        """
        return balanced(
            self.kind, self.tenant, self.amount, self.shares, self.absorbed, lapsed=self.lapsed
        )

    @property
    def refuses_debt(self) -> bool:
        """True for a refund that may take available credits only."""
        return self.reversal is not None and self.reversal.shortfall is Shortfall.REFUSE

    @property
    def expires_at(self) -> datetime | None:
        """The moment at which the rest of a purchase expires. `None` for never."""
        return None if self.lot is None else self.lot.expires_at

    def named_like(self, asked: Transaction) -> Transaction:
        """This transaction, with the charge of a reversal named as in *asked*."""
        if self.giving_back is None or asked.giving_back is None:
            return self
        return evolve(self, giving_back=self.giving_back.named_like(asked.giving_back))

    @cached_property
    def request(self) -> requests.Request:  # noqa: C901, PLR0911 (one for each kind)
        """The caller's request, field by field. Two requests are the same if these are equal.

        Raises:
            UnbalancedTransaction: the kind has no request.
        """
        match self.kind:
            case TransactionKind.PURCHASE:
                assert self.paid is not None  # checked on construction
                return requests.purchase(
                    self.paid, None if self.lot is None else self.lot.expires_in
                )
            case TransactionKind.CAPTURE:
                assert self.subject is not None
                return requests.capture(
                    self.subject, -self.amount, final=self.final, overrun=self.overrun
                )
            case TransactionKind.GRANT:
                assert self.terms is not None
                return requests.grant(
                    self.amount,
                    source=self.terms.source,
                    priority=self.terms.priority,
                    expiry=self.terms.expiry,
                    effective_from=self.terms.effective_from,
                )
            case TransactionKind.EXPIRY:
                return requests.EXPIRY
            case TransactionKind.VOID:
                assert self.subject is not None
                return requests.void(self.subject, self.reason)
            case TransactionKind.REFUND | TransactionKind.CHARGEBACK:
                assert self.reversal is not None
                part = self.reversal
                assert part.shortfall is not None  # the plan sets it
                return requests.reversal(part.payment, part.asked, part.shortfall, part.up_to)
            case TransactionKind.REINSTATEMENT:
                assert self.reversal is not None
                return requests.reinstatement(self.reversal.payment, self.reversal.refund or "none")
            case TransactionKind.ADJUSTMENT:
                assert self.reason is not None
                return requests.adjustment(self.amount, self.reason)
            case TransactionKind.OPENING:
                return requests.opening(self.amount, self.at)
            case TransactionKind.REVERSAL:
                assert self.giving_back is not None
                return requests.giving_back(self.giving_back.named, self.giving_back.asked)
            case kind if kind.is_plain_debit:
                return requests.charge(
                    -self.amount if self.at_most is None else self.at_most,
                    allow_overdraft=self.overdraft,
                    at_most=self.at_most is not None,
                    occurred_at=self.occurred_at,
                )
            case _:
                raise unknown_kind(self.kind)


def _may_have_reason(kind: TransactionKind) -> bool:
    return kind.corrects or kind in {TransactionKind.REVERSAL, TransactionKind.VOID}


@frozen
class Recorded:
    """A transaction as the ledger stores it.

    `balance` is the posted balance of the tenant's account right after the transaction. `replayed`
    is true if an earlier call recorded it.
    """

    transaction: Transaction
    balance: Amount
    replayed: bool
    draws: tuple[Draw, ...] = ()
    """The parts of grants, and of purchases that expire, in the order taken. The rest was of
    purchased credits that never expire.
    """
