"""The law of the ledger: postings of a transaction sum to zero, in every unit, or it is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final
from uuid import UUID

from attrs import field, frozen

from cogni_billing.domain.amounts import ZERO, Amount, total
from cogni_billing.domain.errors import UnbalancedTransaction
from cogni_billing.domain.identity import (
    BREAKAGE,
    ISSUANCE,
    SHORTFALL,
    USAGE,
    AccountId,
    TenantId,
    account_of,
    owner_of,
)
from cogni_billing.domain.metadata import EMPTY, Json
from cogni_billing.domain.shares import Share


class TransactionKind(StrEnum):
    """What a transaction does; it is a text, too: `TransactionKind.CHARGE == "charge"`."""

    PURCHASE = "purchase"
    """A confirmed payment: credits minted for its tenant, and shares on top."""
    CHARGE = "charge"
    """Usage: credits consumed."""
    CAPTURE = "capture"
    """Usage that a hold had set credits aside for."""
    GRANT = "grant"
    """Credits minted without a payment, with a source and perhaps an expiry."""
    EXPIRY = "expiry"
    """What was left of a grant when it expired."""
    REFUND = "refund"
    """A payment given back, in full or in part: its credits and shares are taken back."""
    CHARGEBACK = "chargeback"
    """A lost dispute: the same, for what of the payment was disputed."""

    @property
    def contra(self) -> AccountId:
        """The system tenant's account that takes the other side."""
        return _CONTRA[self]

    @property
    def raises(self) -> bool:
        """Whether it adds to its tenant's account; otherwise it takes from it."""
        return self.opens

    @property
    def reverses(self) -> bool:
        """Whether it takes back what a purchase gave."""
        return self in {TransactionKind.REFUND, TransactionKind.CHARGEBACK}

    @property
    def opens(self) -> bool:
        """Whether it opens its tenant's account where there is none."""
        return self in {TransactionKind.PURCHASE, TransactionKind.GRANT}


_CONTRA: Final = {
    TransactionKind.PURCHASE: ISSUANCE,
    TransactionKind.CHARGE: USAGE,
    TransactionKind.CAPTURE: USAGE,
    TransactionKind.GRANT: ISSUANCE,
    TransactionKind.EXPIRY: BREAKAGE,
    TransactionKind.REFUND: ISSUANCE,
    TransactionKind.CHARGEBACK: ISSUANCE,
}


@frozen
class Posting:
    """One signed amount on one account; positive raises that account's balance."""

    account: AccountId
    amount: Amount

    @property
    def tenant(self) -> TenantId:
        """The account's owner: who may read this posting."""
        return owner_of(self.account)


def imbalance(postings: Iterable[Posting]) -> tuple[Amount, ...]:
    """What *postings* sum to in each unit where it is not zero."""
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
) -> tuple[Posting, ...]:
    """The postings of *kind*: *tenant*'s account changes by *amount*, each beneficiary's by its
    share, the `shortfall` account gives what was *absorbed*, and the kind's contra account takes
    the other side. Zero makes no posting, but for the tenant's own; and a return may be of so
    little that it is all there is.
    """
    legs = [Posting(account_of(tenant), amount)]
    legs += [Posting(share.beneficiary, share.amount) for share in shares if share.amount.value]
    if absorbed.value:
        legs.append(Posting(SHORTFALL, -absorbed))
    other_side = -total((leg.amount for leg in legs), amount.unit)
    if other_side.value or not kind.reverses:
        legs.append(Posting(kind.contra, other_side))
    return tuple(legs)


def _read_only(given: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(given))


@frozen(kw_only=True)
class GrantTerms:
    """Where granted credits come from, when it is their turn to be spent, and until when."""

    source: str
    priority: int
    expires_at: datetime | None = None


@frozen(kw_only=True)
class Reversal:
    """Of which purchase how much is taken back: in the unit of the payment."""

    purchase: UUID
    amount: Amount
    total: Amount
    """All that was taken back of the payment so far, this included."""


@frozen(kw_only=True)
class Transaction:
    """An immutable, atomic set of postings that sums to zero: it cannot exist otherwise.

    Its postings are those of its kind, in order: the tenant's own account, raised or lowered as
    the kind says; each beneficiary whose share is not zero; the `shortfall` account, if it absorbs
    anything; the contra account.

    Raises:
        UnbalancedTransaction: the postings sum to something else, or are not those.
    """

    id: UUID
    tenant: TenantId
    kind: TransactionKind
    reference: str
    at: datetime
    postings: tuple[Posting, ...]
    shares: tuple[Share, ...] = ()
    request: Mapping[str, str] = field(factory=dict, converter=_read_only)
    """What the caller asked for, field by field: what makes two requests the same."""
    policy: Mapping[str, Json] = EMPTY
    """Every input of the shares, so that they can be computed again from the record."""
    metadata: Mapping[str, Json] = EMPTY
    overdraft: bool = False
    """Whether it may take more than is available: its cost was incurred already."""
    subject: UUID | None = None
    """What it settles: the hold of a capture, the grant of an expiry, the dispute that a chargeback
    ends."""
    terms: GrantTerms | None = None
    """How the credits of a grant are to be spent."""
    absorbed: Amount = ZERO
    """What a refund could not take back of those who had spent it."""
    reversal: Reversal | None = None
    """What a refund or a chargeback takes back."""

    def __attrs_post_init__(self) -> None:
        if excess := imbalance(self.postings):
            raise UnbalancedTransaction("postings do not sum to zero", excess)
        if not self.postings or self.postings != balanced(
            self.kind, self.tenant, self.postings[0].amount, self.shares, self.absorbed
        ):
            raise UnbalancedTransaction(f"postings are not those of a {self.kind}")
        if self.amount.is_zero:
            # What a split leaves the customer, and what is there to be taken back, may be nothing.
            lawful = self.kind is TransactionKind.PURCHASE or self.kind.reverses
        else:
            lawful = self.kind.raises is self.amount.is_positive
        if not lawful:
            raise UnbalancedTransaction(f"a {self.kind} of {self.amount}")
        if (self.kind is TransactionKind.GRANT) is (self.terms is None):
            raise UnbalancedTransaction(f"a {self.kind} with terms {self.terms}")
        if self.kind.reverses is (self.reversal is None):
            raise UnbalancedTransaction(f"a {self.kind} with reversal {self.reversal}")

    @property
    def amount(self) -> Amount:
        """The change of the tenant's own account."""
        return self.postings[0].amount


@frozen
class Recorded:
    """What the ledger holds after a call: the transaction as it was first recorded, the balance
    of its tenant's account right after it, and whether this call only found it there.
    """

    transaction: Transaction
    balance: Amount
    replayed: bool
