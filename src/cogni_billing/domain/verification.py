"""Verification: the invariants that `verify` checks, and its findings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum

from attrs import frozen

from cogni_billing.domain.amounts import CREDIT, Amount, parsed, total
from cogni_billing.domain.erasure import is_erased
from cogni_billing.domain.errors import BillingError, escaped
from cogni_billing.domain.metadata import Json
from cogni_billing.domain.payments import Payment, step
from cogni_billing.domain.prices import bought_by, policy_in
from cogni_billing.domain.reinstatements import Returns
from cogni_billing.domain.schedules import Schedule
from cogni_billing.domain.shares import Share
from cogni_billing.domain.transactions import Draw, Recorded, Reversal, Transaction


class Invariant(Enum):
    """An invariant of the recorded data, with a sentence for reports."""

    TRANSACTIONS_SUM_TO_ZERO = "a transaction's postings sum to zero in each unit"
    POSTINGS_MATCH = "a transaction has exactly the postings that it declares"
    TRANSACTIONS_FIT_THEIR_KIND = "a transaction has the fields and the sign of its kind"
    TRANSACTIONS_DO_WHAT_WAS_ASKED = "a transaction does what its request asked for"
    WALLETS_MATCH = "a wallet is the sum of its owner's transactions"
    WALLETS_HAVE_ACCOUNTS = "a wallet belongs to an open account"
    WALLETS_FOLLOW_A_CHECKPOINT = "the received credits of a wallet match a checkpoint"
    WALLETS_KNOW_WHAT_IS_DUE = (
        "a wallet stores when its next hold or grant expires, or next period begins"
    )
    FROZEN_WALLETS_SPEND_NOTHING = "a frozen wallet has its reason, and no later charge"
    OPENINGS_COME_FIRST = "an opening balance comes before every other line of its account"
    CHARGES_ARE_REPORTED_IN_TIME = "a charge is of usage of its account, at most 35 days ago"
    OVERDRAFTS_STAY_WITHIN_THEIR_LIMIT = "a charge overdraws no further than its wallet's limit"
    LINES_RUN_ON = "a line's balance is the previous balance plus its amount"
    LINES_ARE_GAPLESS = "lines are numbered without a gap, up to their wallet's count"
    LINES_SEE_ARRIVALS = "a line has seen at least the arrivals of earlier lines"
    HOLDS_ARE_COUNTED = "a wallet sets aside the sum of its open holds"
    GRANTS_ARE_COUNTED = "a wallet counts the remainder of its grants"
    CHECKPOINTS_MATCH = "a checkpoint is the sum of the lines up to it"
    POLICIES_MATCH_THEIR_DIGEST = "a policy is recorded under the digest of its text"
    SHARES_FOLLOW_THE_POLICY = "a purchase has the shares of its recorded policy"
    PURCHASES_CREDIT_WHAT_WAS_PAID = "a purchase credits all that its payment buys"
    PURCHASES_CLAIM_THEIR_PAYMENT = "a purchase has claimed its payment"
    PAYMENTS_HAVE_THEIR_PURCHASE = "a claimed payment has its purchase"
    ATTEMPTS_HAVE_THEIR_PURCHASE = "a credited attempt has its purchase, of the same amount"
    ATTEMPTS_FOLLOW_THEIR_EVENTS = "an attempt is in the state of its last event"
    RECIPIENTS_ARE_OF_ONE_INTENT = "an address that any sender may pay is of one intent"
    EVIDENCE_IS_OF_ITS_ATTEMPT = "a pending or credited attempt claims its evidence"
    EVENTS_ARE_OF_A_CLAIM = "an applied payment event is of a payment that its tenant has claimed"
    TRANSACTIONS_MATCH_THEIR_SEAL = "a sealed transaction has not changed since"
    HOLDS_FIT_THEIR_KIND = "a hold has the fields of its kind and state"
    HOLDS_ADD_UP = "the credits of a hold were captured or released, or are held"
    CAPTURES_MATCH_THEIR_HOLD = "a hold has captures of its captured amount"
    GRANTS_MATCH_THEIR_TRANSACTION = "a grant has the amount that its transaction minted"
    GRANTS_ADD_UP = "credits taken from a grant were spent, held or expired"
    GRANTS_EXPIRE_ON_TIME = "the credits of a grant expire at its expiry, not before"
    GRANTS_END_AS_SET = "a grant expires when it was last set to, or when it was voided"
    SCHEDULES_ARE_KEPT = "each period of a schedule that began has exactly its grants"
    REVERSALS_FOLLOW_ONE_ANOTHER = "reversals of a payment add up, and stay within it"
    REVERSALS_TAKE_BACK_THEIR_PART = "a reversal takes back its part of every leg"
    REVERSALS_TAKE_BACK_EXPIRED_CREDITS = (
        "a refund takes back the expired credits of its purchase before it takes others"
    )
    REVERSALS_GIVE_BACK_A_CHARGE = "reversals of a charge add up, and stay within it"
    REVERSALS_RETURN_TO_THEIR_LOTS = "a reversal gives credits back to the lots that were drawn"
    REINSTATEMENTS_UNDO_A_REVERSAL = (
        "a reinstatement gives back what its refund or its dispute took, of every leg"
    )
    PAYMENTS_ARE_RETURNED_AS_FAR_AS_DUE = (
        "a payment is returned as far as its refunds and its lost disputes stand"
    )
    DISPUTES_ARE_SET_ASIDE = "an open dispute sets its credits aside on every wallet"
    DISPUTES_ARE_OF_THEIR_PAYMENT = "open disputes cover their parts of every leg of the payment"
    CHARGEBACKS_ARE_OF_A_DISPUTE = "a lost dispute has a chargeback, and a chargeback its dispute"

    def __init__(self, meaning: str) -> None:
        self.meaning = meaning

    @property
    def code(self) -> str:
        """The stable name."""
        return self.name.lower()


@frozen
class Violation:
    """A broken invariant: the ids that locate the record, and a description."""

    invariant: Invariant
    where: Mapping[str, str]
    detail: str

    def __str__(self) -> str:
        ids = ", ".join(f"{name} {id_}" for name, id_ in self.where.items())
        return escaped(f"{self.invariant.code}: {ids}: {self.detail}")


@frozen(kw_only=True)
class Verification:
    """The result of checking the whole ledger."""

    violations: tuple[Violation, ...]
    """At most as many for each invariant as the call asked for."""
    transactions: int
    """The number of transactions that were checked."""
    postings: int
    """The number of postings that were checked."""

    @property
    def ok(self) -> bool:
        return not self.violations


def purchase_problems(
    *,
    paid: str,
    credited: Amount,
    shares: Sequence[Share],
    policy: Mapping[str, Json],
    at: datetime,
) -> Iterator[tuple[Invariant, str]]:
    """Check a recorded purchase against its own record, with the recorded policy and price."""
    try:
        bought = bought_by(parsed(paid), policy)
    except BillingError as error:
        yield Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID, str(error)
        return
    try:
        terms = policy_in(policy)
        expected = terms.shares_of(bought, at)
    except BillingError as error:
        yield Invariant.SHARES_FOLLOW_THE_POLICY, str(error)
        # In full, or without the shares of a split.
        if bought not in (credited, total((credited, *(s.amount for s in shares)), CREDIT)):
            problem = f"{paid} buys {bought}, and {credited} were credited"
            yield Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID, problem
        return
    if credited != (left := terms.credited_of(bought, expected)):
        problem = f"{paid} buys {left}, and {credited} were credited"
        yield Invariant.PURCHASES_CREDIT_WHAT_WAS_PAID, problem
    if tuple(shares) != expected:
        yield (
            Invariant.SHARES_FOLLOW_THE_POLICY,
            f"{_listed(shares)} instead of {_listed(expected)}",
        )


def reversal_problems(
    *,
    legs: Sequence[Amount],
    taken: Sequence[Amount],
    absorbed: Amount,
    lapsed: Amount,
    paid: str,
    so_far: Reversal,
) -> Iterator[tuple[Invariant, str]]:
    """Check a recorded refund or chargeback against its own record and its purchase.

    The legs are the customer's credits and the shares, in order. Of the customer's, *lapsed* came
    from `breakage`.
    """
    try:
        whole = parsed(paid)
    except BillingError as error:
        yield Invariant.REVERSALS_TAKE_BACK_THEIR_PART, str(error)
        return
    before = so_far.total - so_far.amount
    steps = [step(leg, before, so_far.total, whole) for leg in legs]
    short = [due - gone for due, gone in zip(steps, taken, strict=True)]
    short[0] -= lapsed
    if any(each.is_negative for each in short) or total(short, absorbed.unit) != absorbed:
        wanted, found = (", ".join(map(str, amounts)) for amounts in (steps, taken))
        problem = f"{found} taken and {absorbed} absorbed instead of {wanted}"
        yield Invariant.REVERSALS_TAKE_BACK_THEIR_PART, problem


def reinstatement_problems(made: Recorded, before: Returns) -> Iterator[tuple[Invariant, str]]:
    """Check a recorded reinstatement against the earlier reversals of the payment."""
    expected, lots = before.undone_by(made.transaction)
    wanted, found = _given_back(expected, lots), _given_back(made.transaction, made.draws)
    if wanted != found:
        yield Invariant.REINSTATEMENTS_UNDO_A_REVERSAL, f"{found} instead of {wanted}"


def _given_back(made: Transaction, draws: Sequence[Draw]) -> str:
    lots = ", ".join(f"{draw.amount} of {draw.grant_id}" for draw in draws) or "none"
    parts = f"{made.amount}, {_listed(made.shares)}, {made.absorbed} absorbed"
    return f"{parts}, {made.lapsed} expired, lots: {lots}"


def dispute_problems(payment: Payment) -> Iterator[tuple[Invariant, str]]:
    """Check the returned and the disputed parts of a payment against its refunds and disputes."""
    if payment.returned != payment.due:
        problem = f"{payment.returned} returned instead of {payment.due}"
        yield Invariant.PAYMENTS_ARE_RETURNED_AS_FAR_AS_DUE, problem
    wanted = payment.disputes_at(payment.returned)
    for dispute, expected in zip(payment.disputes, wanted, strict=True):
        # The expired part is of the moment when the dispute last changed.
        found = dispute.set_aside + dispute.lapsed
        if (found, dispute.shares) != (expected.set_aside + expected.lapsed, expected.shares):
            problem = f"{found} and {_listed(dispute.shares)} for {dispute.amount}"
            yield Invariant.DISPUTES_ARE_OF_THEIR_PAYMENT, problem


def schedule_problems(schedule: Schedule, grants: Mapping[str, Transaction]) -> Iterator[str]:
    """Check that the tenant's recorded *grants*, by reference, are those of the begun periods."""
    kept = set[str]()
    for number in range(schedule.first_number, schedule.number):
        begins = schedule.begin(number)
        for planned in schedule.grants(number, begins or schedule.begins):
            kept.add(planned.reference)
            made = grants.get(planned.reference)
            if made is None:
                yield f"no grant {planned.reference}"
            elif not _is_kept(made, planned, late=number == schedule.first_number):
                yield f"another grant {planned.reference} than planned"
    own = {name for name, made in grants.items() if _is_of(schedule, made)}
    yield from (f"an extra grant {name}" for name in sorted(own - kept))
    next_at = None if schedule.ended_at else schedule.begin(schedule.number)
    if schedule.next_at != next_at:
        yield f"the next period begins at {schedule.next_at} instead of {next_at}"


def _is_of(schedule: Schedule, made: Transaction) -> bool:
    return made.id == schedule.id or made.reference.startswith(f"{schedule.id} ")


def _is_kept(made: Transaction, planned: Transaction, *, late: bool) -> bool:
    """True if *made* is the planned grant. The first period may have begun before the schedule."""
    terms, wanted = made.terms, planned.terms
    return (
        terms is not None
        and wanted is not None
        and (made.id, made.amount) == (planned.id, planned.amount)
        and (terms.priority, terms.expires_at) == (wanted.priority, wanted.expires_at)
        and (terms.source == wanted.source or is_erased(terms.source))
        and (made.at >= planned.at if late else made.at == planned.at)
    )


def _listed(shares: Sequence[Share]) -> str:
    return ", ".join(f"{share.amount} for {share.beneficiary}" for share in shares) or "nothing"
