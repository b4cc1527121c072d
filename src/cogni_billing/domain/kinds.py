"""The kinds of transactions, and one closed table of the rules of each."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from attrs import frozen

from cogni_billing.domain.errors import unknown_kind
from cogni_billing.domain.identity import (
    ADJUSTMENTS,
    BREAKAGE,
    ISSUANCE,
    SHORTFALL,
    USAGE,
    AccountId,
)


class TransactionKind(StrEnum):
    """The kind of a transaction, which is also a string: `TransactionKind.CHARGE == "charge"`.

    Its properties read `KINDS`. Each raises `UnbalancedTransaction` for a kind without an entry.
    """

    PURCHASE = "purchase"
    """A confirmed payment: credits minted for its tenant, and shares for beneficiaries."""
    CHARGE = "charge"
    """Usage: credits consumed."""
    CAPTURE = "capture"
    """Usage that is paid from a hold."""
    GRANT = "grant"
    """Credits minted without a payment, with a source and perhaps an expiry."""
    EXPIRY = "expiry"
    """The remainder of a grant, taken when the grant expires."""
    VOID = "void"
    """The remainder of a grant, taken back before the grant expires."""
    REFUND = "refund"
    """A payment returned in full or in part: its credits and shares are taken back."""
    CHARGEBACK = "chargeback"
    """A lost dispute: takes back the credits and shares of the disputed part of a payment."""
    REINSTATEMENT = "reinstatement"
    """A refund that failed, or a lost dispute that was won: gives the credits and shares back."""
    ADJUSTMENT = "adjustment"
    """An operator's correction, which adds or takes credits."""
    REVERSAL = "reversal"
    """Usage given back: credits that a charge or a capture took."""
    OPENING = "opening"
    """The purchased credits, or the debt, that a tenant brings from another system."""

    @property
    def contra(self) -> AccountId:
        """The system tenant's account that takes the other side."""
        return rules_of(self).contra

    @property
    def is_credit(self) -> bool:
        """True if it adds to its tenant's account. Otherwise it takes from the account."""
        return rules_of(self).is_credit

    @property
    def corrects(self) -> bool:
        """True if it adds to its tenant's account or takes from it, for an operator's reason."""
        return rules_of(self).corrects

    @property
    def opens_balance(self) -> bool:
        """True if it is the first balance of its tenant's account, of either sign."""
        return rules_of(self).opens_balance

    @property
    def may_be_zero(self) -> bool:
        """True if it may leave its tenant's account unchanged."""
        return rules_of(self).may_be_zero

    @property
    def opens_account(self) -> bool:
        """True if it opens its tenant's account if the tenant has none."""
        return rules_of(self).opens_account

    @property
    def reverses(self) -> bool:
        """True if it takes back the credits of a purchase, or undoes that."""
        return rules_of(self).reverses

    @property
    def reinstates(self) -> bool:
        """True if it undoes a refund or a chargeback."""
        return rules_of(self).reinstates

    @property
    def absorbs(self) -> AccountId | None:
        """The account that takes the part which its tenant's account cannot take."""
        return rules_of(self).absorbs

    @property
    def is_usage(self) -> bool:
        """True if it takes credits for work, which a reversal can give back."""
        return rules_of(self).is_usage

    @property
    def subject(self) -> str | None:
        """The thing that `Transaction.subject` names, such as a hold."""
        return rules_of(self).subject

    @property
    def is_plain_debit(self) -> bool:
        """True if it takes available credits and does no more, like a charge."""
        return rules_of(self).is_plain_debit

    @property
    def is_granted(self) -> bool:
        """True if all of its credits are granted ones."""
        return rules_of(self).is_granted

    @property
    def has_shares(self) -> bool:
        """True if it may change the accounts of beneficiaries."""
        return rules_of(self).has_shares


@frozen(kw_only=True)
class KindRules:
    """The rules that every transaction of one kind follows."""

    contra: AccountId
    is_credit: bool = False
    corrects: bool = False
    opens_balance: bool = False
    may_be_zero: bool = False
    opens_account: bool = False
    reverses: bool = False
    absorbs: AccountId | None = None
    subject: str | None = None
    has_shares: bool = False
    is_granted: bool = False

    @property
    def reinstates(self) -> bool:
        """True if it undoes a refund or a chargeback."""
        return self.reverses and self.is_credit

    @property
    def is_usage(self) -> bool:
        """True if it takes credits for work."""
        return self.contra == USAGE and not self.is_credit

    @property
    def gives_back(self) -> bool:
        """True if it returns credits that were taken for work."""
        return self.contra == USAGE and self.is_credit

    @property
    def is_plain_debit(self) -> bool:
        """True if it takes available credits and does no more."""
        others = self.is_credit, self.corrects, self.reverses, self.subject, self.has_shares
        return not (any(others) or self.opens_balance)


KINDS: Final[Mapping[TransactionKind, KindRules]] = MappingProxyType(
    {
        TransactionKind.PURCHASE: KindRules(
            contra=ISSUANCE,
            is_credit=True,
            may_be_zero=True,  # a split can give everything to the beneficiaries
            opens_account=True,
            has_shares=True,
        ),
        TransactionKind.CHARGE: KindRules(contra=USAGE, may_be_zero=True),
        TransactionKind.CAPTURE: KindRules(contra=USAGE, may_be_zero=True, subject="hold"),
        TransactionKind.GRANT: KindRules(
            contra=ISSUANCE, is_credit=True, opens_account=True, is_granted=True
        ),
        TransactionKind.EXPIRY: KindRules(contra=BREAKAGE, subject="grant", is_granted=True),
        TransactionKind.VOID: KindRules(
            contra=ISSUANCE,
            may_be_zero=True,  # all of the grant may be spent
            subject="grant",
            is_granted=True,
        ),
        TransactionKind.REFUND: KindRules(
            contra=ISSUANCE,
            may_be_zero=True,
            reverses=True,
            absorbs=SHORTFALL,
            has_shares=True,
        ),
        TransactionKind.CHARGEBACK: KindRules(
            contra=ISSUANCE,
            may_be_zero=True,
            reverses=True,
            absorbs=SHORTFALL,
            subject="dispute",
            has_shares=True,
        ),
        TransactionKind.REINSTATEMENT: KindRules(
            contra=ISSUANCE,
            is_credit=True,
            may_be_zero=True,
            reverses=True,
            absorbs=SHORTFALL,
            subject="refund or dispute",
            has_shares=True,
        ),
        TransactionKind.ADJUSTMENT: KindRules(contra=ADJUSTMENTS, corrects=True),
        TransactionKind.REVERSAL: KindRules(
            contra=USAGE,
            is_credit=True,
            may_be_zero=True,  # all of it can have expired
            absorbs=BREAKAGE,
        ),
        TransactionKind.OPENING: KindRules(
            contra=ADJUSTMENTS,
            opens_balance=True,
            may_be_zero=True,  # all of it can be grants
            opens_account=True,
        ),
    }
)
"""The rules of each kind. A kind without an entry is refused."""


def rules_of(kind: TransactionKind) -> KindRules:
    """The rules of *kind*.

    Raises:
        UnbalancedTransaction: the table has no entry for it.
    """
    try:
        return KINDS[kind]
    except KeyError:
        raise unknown_kind(kind) from None
