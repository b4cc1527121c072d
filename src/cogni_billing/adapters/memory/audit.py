"""Checks the invariants that the in-memory tables can break."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Final
from uuid import UUID

from attrs import evolve

from cogni_billing.adapters.memory.inbox import is_claimed
from cogni_billing.adapters.memory.payments import payment_of, reversals_of
from cogni_billing.adapters.memory.store import Store
from cogni_billing.domain.amounts import CREDIT, ZERO, Amount, total
from cogni_billing.domain.disputes import Dispute
from cogni_billing.domain.errors import InvalidTime
from cogni_billing.domain.giving_back import Charged
from cogni_billing.domain.grants import Grant
from cogni_billing.domain.hold_changes import HoldChange, HoldChangeKind
from cogni_billing.domain.holds import Hold
from cogni_billing.domain.identity import TenantId, account_of
from cogni_billing.domain.inbox import EventState
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.openings import OPENING_KEY
from cogni_billing.domain.reinstatements import Returns, span
from cogni_billing.domain.statements import Line
from cogni_billing.domain.timestamps import EARLIEST, LATEST, require_recent
from cogni_billing.domain.transactions import (
    Draw,
    GivingBack,
    Recorded,
    Reversal,
    Transaction,
    drawn,
    imbalance,
)
from cogni_billing.domain.verification import (
    Invariant,
    Violation,
    dispute_problems,
    purchase_problems,
    reinstatement_problems,
    reversal_problems,
    schedule_problems,
)
from cogni_billing.domain.wallets import Wallet

_ENDINGS: Final = {TransactionKind.EXPIRY, TransactionKind.VOID}


def violations(store: Store) -> Iterator[Violation]:
    """Every violation, in the order of the tables."""
    yield from _transactions(store)
    yield from _lines(store)
    yield from _wallets(store)
    yield from _grants(store)
    yield from _schedules(store)
    yield from _holds(store)
    yield from _payments(store)
    yield from _disputes(store)
    yield from _attempts(store)
    yield from _recipients(store)
    yield from _events(store)


def _transactions(store: Store) -> Iterator[Violation]:
    lines = {
        (line.transaction_id, account): line.amount
        for account, recorded in store.lines.items()
        for line in recorded
    }
    for recorded in store.recorded.values():
        made = recorded.transaction
        where = {"tenant": str(made.tenant), "transaction": str(made.id)}
        for invariant, detail in _dated(store, made):
            yield Violation(invariant, where, detail)
        if excess := imbalance(made.postings):
            yield Violation(
                Invariant.TRANSACTIONS_SUM_TO_ZERO, where, f"{_listed(excess)} too much"
            )
        entered = [lines.get((made.id, posting.account)) for posting in made.postings]
        declared = [posting.amount for posting in made.postings]
        if entered != declared:
            detail = f"{_listed(entered)} instead of {_listed(declared)}"
            yield Violation(Invariant.POSTINGS_MATCH, where, detail)
        if made.kind is TransactionKind.PURCHASE:
            for invariant, detail in purchase_problems(
                paid=str(made.paid),
                credited=made.amount,
                shares=made.shares,
                policy=made.policy,
                at=made.at,
            ):
                yield Violation(invariant, where, detail)
            if store.payments.get(made.reference) != made.tenant:
                yield Violation(Invariant.PURCHASES_CLAIM_THEIR_PAYMENT, where, made.reference)
        for invariant, detail in _taken_back(store, recorded):
            yield Violation(invariant, where, detail)


def _dated(store: Store, made: Transaction) -> Iterator[tuple[Invariant, str]]:
    if made.kind.opens_balance and not _comes_first(store, made):
        yield Invariant.OPENINGS_COME_FIRST, f"an opening as of {made.at}"
    if made.occurred_at is not None:
        try:
            require_recent(made.occurred_at, store.accounts[made.tenant].opened_at, made.at)
        except InvalidTime as error:
            yield Invariant.CHARGES_ARE_REPORTED_IN_TIME, str(error)


def _comes_first(store: Store, opening: Transaction) -> bool:
    """True if only grants of its own come before *opening*, and the account was open."""
    lines = (line for line in store.lines[account_of(opening.tenant)] if line.reference)
    before = list(takewhile(lambda line: line.transaction_id != opening.id, lines))
    keys = [f"{OPENING_KEY}/{number}" for number, _ in enumerate(before, 1)]
    return (
        opening.reference == OPENING_KEY
        and [line.reference for line in before] == keys
        and all(line.kind is TransactionKind.GRANT for line in before)
        and store.accounts[opening.tenant].opened_at <= opening.at
    )


def _listed(amounts: Iterable[Amount | None]) -> str:
    return ", ".join("nothing" if amount is None else str(amount) for amount in amounts)


def _returned(
    store: Store, recorded: Recorded, reversal: Reversal
) -> Iterator[tuple[Invariant, str]]:
    made = recorded.transaction
    purchase = store.recorded[store.ids[made.tenant, reversal.purchase]].transaction
    before = tuple(takewhile(lambda each: each is not recorded, reversals_of(store, purchase)))
    so_far = _total(before, purchase)
    if span(reversal, undone=made.kind.reinstates)[0] != so_far or reversal.amount.is_negative:
        detail = f"{reversal.amount} after {so_far} make {reversal.total} of {purchase.paid}"
        yield Invariant.REVERSALS_FOLLOW_ONE_ANOTHER, detail
    if made.kind.reinstates:
        yield from reinstatement_problems(recorded, Returns(purchase, before))
        return
    yield from reversal_problems(
        legs=[purchase.amount, *(share.amount for share in purchase.shares)],
        taken=[-made.amount, *(-share.amount for share in made.shares)],
        absorbed=made.absorbed,
        lapsed=made.lapsed,
        paid=str(purchase.paid),
        so_far=reversal,
    )
    expired = _expired_before(store, made, purchase.id)
    own = drawn(draw for draw in recorded.draws if draw.grant_id == purchase.id)
    # Other credits are taken only when all expired ones are.
    if not ZERO <= made.lapsed <= expired or (made.lapsed < expired and own < -made.amount):
        detail = f"{made.lapsed} of {expired} expired, and {-made.amount - own} of other credits"
        yield Invariant.REVERSALS_TAKE_BACK_EXPIRED_CREDITS, detail


def _total(before: Sequence[Recorded], purchase: Transaction) -> Amount:
    """The returned amount of the payment after *before*."""
    assert purchase.paid is not None  # a purchase has it
    last = before[-1].transaction.reversal if before else None
    return last.total if last else purchase.paid - purchase.paid


def _expired_before(store: Store, made: Transaction, purchase: UUID) -> Amount:
    """The expired credits of the purchase that earlier refunds than *made* left."""
    earlier = takewhile(
        lambda each: (each.tenant, each.id) != (made.tenant, made.id),
        (recorded.transaction for recorded in store.recorded.values()),
    )
    amounts = [
        (each.lapsed if each.kind.reinstates else -each.lapsed) if each.reversal else -each.amount
        for each in earlier
        if each.tenant == made.tenant
        and (
            (each.reversal and each.reversal.purchase == purchase)
            or (each.kind is TransactionKind.EXPIRY and each.subject == purchase)
        )
    ]
    return total(amounts, CREDIT)


def _taken_back(store: Store, recorded: Recorded) -> Iterator[tuple[Invariant, str]]:
    made = recorded.transaction
    if made.reversal is not None:
        yield from _returned(store, recorded, made.reversal)
    if made.refuses_debt and made.amount.is_negative and recorded.balance.is_negative:
        detail = f"a balance of {recorded.balance} after a refund that refuses a debt"
        yield Invariant.TRANSACTIONS_DO_WHAT_WAS_ASKED, detail
    if made.giving_back is not None:
        yield from _given_back(store, recorded, made.giving_back)


def _given_back(
    store: Store, recorded: Recorded, part: GivingBack
) -> Iterator[tuple[Invariant, str]]:
    made = recorded.transaction
    charge = store.recorded[store.ids[made.tenant, part.charge]] if part.charge else recorded
    others = (each.transaction.giving_back for each in store.recorded.values())
    before = [
        other.amount
        for other in others
        if other is not None and other.charge == part.charge and other.total < part.total
    ]
    charged = Charged(recorded=charge, given_back=total(before, CREDIT))
    if charged.given_back + part.amount != part.total or part.total > charged.amount:
        detail = f"{part.amount} after {charged.given_back} make {part.total} of {charged.amount}"
        yield Invariant.REVERSALS_GIVE_BACK_A_CHARGE, detail
        return
    lots = charged.lots(part.amount)
    kept = tuple(lot for lot in lots if lot in recorded.draws)
    if kept != recorded.draws or drawn(lots) - drawn(kept) != made.absorbed:
        detail = f"{_listed(draw.amount for draw in recorded.draws)} and {made.absorbed} expired"
        yield (
            Invariant.REVERSALS_RETURN_TO_THEIR_LOTS,
            f"{detail} instead of {_listed(lot.amount for lot in lots)}",
        )


def _lines(store: Store) -> Iterator[Violation]:
    for account, lines in store.lines.items():
        balance = total((), CREDIT)
        for line in lines:
            balance += line.amount
            if line.balance_after != balance:
                where = {"account": str(account), "transaction": str(line.transaction_id)}
                detail = f"{line.balance_after} instead of {balance}"
                yield Violation(Invariant.LINES_RUN_ON, where, detail)


def _wallets(store: Store) -> Iterator[Violation]:
    for tenant, wallet in store.wallets.items():
        lines = store.lines.get(account_of(tenant), ())
        own = (line.amount for line in lines if line.reference is not None)
        if wallet.posted != (posted := total(own, CREDIT)):
            detail = f"{wallet.posted} instead of {posted}"
            yield Violation(Invariant.WALLETS_MATCH, {"tenant": str(tenant)}, detail)
        spent = [line for line in lines[store.frozen_after.get(tenant, 0) :] if _spends(line)]
        if wallet.freeze is not None and spent:
            detail = f"{spent[0].reference} was charged while it is frozen"
            located = {"tenant": str(tenant)}
            yield Violation(Invariant.FROZEN_WALLETS_SPEND_NOTHING, located, detail)
        for line in _beyond_limit(wallet, lines[store.limited_after.get(tenant, 0) :]):
            located = {"tenant": str(tenant), "transaction": str(line.transaction_id)}
            detail = f"{line.balance_after} with a limit of {wallet.overdraft_limit}"
            yield Violation(Invariant.OVERDRAFTS_STAY_WITHIN_THEIR_LIMIT, located, detail)
        if tenant not in store.accounts:
            yield Violation(Invariant.WALLETS_HAVE_ACCOUNTS, {"tenant": str(tenant)}, "no account")


def _beyond_limit(wallet: Wallet, lines: Iterable[Line]) -> Iterator[Line]:
    """The charges among *lines* that left less than the limit allows."""
    if wallet.overdraft_limit is None:
        return
    for line in lines:
        charged = _spends(line) and line.amount.is_negative
        if charged and (line.balance_after + wallet.overdraft_limit).is_negative:
            yield line


def _holds(store: Store) -> Iterator[Violation]:
    taken = dict[tuple[TenantId, UUID | None], Amount]()
    for recorded in store.recorded.values():
        made = recorded.transaction
        if made.kind is TransactionKind.CAPTURE:
            key = (made.tenant, made.subject)
            taken[key] = taken.get(key, ZERO) - made.amount
    for tenant, wallet in store.wallets.items():
        for hold in wallet.holds.values():
            where = {"tenant": str(tenant), "hold": str(hold.id)}
            if hold.captured != (captures := taken.pop((tenant, hold.id), ZERO)):
                detail = f"{hold.captured} captured of it, and {captures} by captures"
                yield Violation(Invariant.CAPTURES_MATCH_THEIR_HOLD, where, detail)
            if not _adds_up(hold, wallet.changes[hold.id], wallet.pins[hold.id]):
                detail = f"{hold.captured} captured and {hold.held} held of {hold.amount}"
                yield Violation(Invariant.HOLDS_ADD_UP, where, detail)
    for (tenant, hold_id), amount in taken.items():
        where = {"tenant": str(tenant), "hold": str(hold_id)}
        yield Violation(Invariant.CAPTURES_MATCH_THEIR_HOLD, where, f"{amount} of an unknown hold")


def _adds_up(hold: Hold, changes: Iterable[HoldChange], pins: Iterable[Draw]) -> bool:
    """True if *changes* make the amounts of *hold* and its *pins*."""
    sums = dict.fromkeys((*HoldChangeKind,), ZERO)
    drawn = dict[UUID, Amount]()
    for change in changes:
        sums[change.kind] += change.amount
        for draw in change.draws:
            signed = draw.amount if change.amount.is_positive else -draw.amount
            drawn[draw.grant_id] = drawn.get(draw.grant_id, ZERO) + signed
    captured, released = sums.pop(HoldChangeKind.CAPTURE), sums.pop(HoldChangeKind.RELEASE)
    return (
        hold.amount == total(sums.values(), CREDIT)
        and (hold.captured, hold.released) == (-captured, -released)
        and {grant: part for grant, part in drawn.items() if not part.is_zero}
        == {pin.grant_id: pin.amount for pin in pins}
    )


def _spends(line: Line) -> bool:
    return line.reference is not None and line.kind.is_plain_debit


def _grants(store: Store) -> Iterator[Violation]:
    used = defaultdict[tuple[TenantId, UUID], list[Amount]](list)
    for tenant, draw in _drawn(store):
        used[tenant, draw.grant_id].append(draw.amount)
    for tenant, wallet in store.wallets.items():
        for grant in wallet.grants.values():
            taken = grant.amount - grant.remaining
            if taken != (parts := total(used[tenant, grant.id], CREDIT)):
                where = {"tenant": str(tenant), "grant": str(grant.id)}
                detail = f"{taken} taken instead of {parts}, of {grant.amount}"
                yield Violation(Invariant.GRANTS_ADD_UP, where, detail)
            if grant.expires_at != (ends_at := _end_of(store, tenant, grant)):
                where = {"tenant": str(tenant), "grant": str(grant.id)}
                detail = f"at {grant.expires_at} instead of {ends_at}"
                yield Violation(Invariant.GRANTS_END_AS_SET, where, detail)


def _schedules(store: Store) -> Iterator[Violation]:
    made = defaultdict[TenantId, dict[str, Transaction]](dict)
    for (tenant, kind, reference), recorded in store.recorded.items():
        if kind is TransactionKind.GRANT:
            made[tenant][reference] = recorded.transaction
    for tenant, wallet in store.wallets.items():
        for schedule in wallet.schedules.values():
            where = {"tenant": str(tenant), "schedule": str(schedule.id)}
            for detail in schedule_problems(schedule, made[tenant]):
                yield Violation(Invariant.SCHEDULES_ARE_KEPT, where, detail)


def _end_of(store: Store, tenant: TenantId, grant: Grant) -> datetime | None:
    """The expiry that was last set, or the earlier end of the grant by a void."""
    minted = store.recorded[store.ids[tenant, grant.id]].transaction
    if minted.lot is not None:
        return None if _never_expires(store, minted) else minted.lot.expires_at
    terms = minted.terms
    assert terms is not None  # a grant has them
    extensions = (each for (whose, _), each in store.extensions.items() if whose == tenant)
    ends = [each.expires_at for each in extensions if each.grant_id == grant.id]
    last = max([*ends, terms.expires_at]) if terms.expires_at is not None else None
    voids = [
        line.at
        for line in store.lines[account_of(tenant)]
        if line.kind is TransactionKind.VOID
        and store.recorded[tenant, line.kind, str(line.reference)].transaction.subject == grant.id
    ]
    return min([*voids, last or LATEST]) if voids else last


def _never_expires(store: Store, purchase: Transaction) -> bool:
    """True if a dispute ended the expiry of *purchase*, or a refund that took other credits."""
    assert purchase.lot is not None  # the caller has checked
    expires_at = purchase.lot.expires_at
    disputes = (each for each in store.disputes.values() if each.purchase == purchase.id)
    taken = (
        -recorded.transaction.amount
        > drawn(draw for draw in recorded.draws if draw.grant_id == purchase.id)
        for recorded in store.recorded.values()
        if recorded.transaction.reversal is not None
        and recorded.transaction.reversal.purchase == purchase.id
    )
    return any(each.opened_at < expires_at for each in disputes) or any(taken)


def _drawn(store: Store) -> Iterator[tuple[TenantId, Draw]]:
    """The parts of grants that were spent, expired or voided, or are set aside."""
    for (tenant, kind, _), recorded in store.recorded.items():
        made = recorded.transaction
        for draw in recorded.draws:
            back = made.giving_back or made.kind.reinstates
            yield tenant, evolve(draw, amount=-draw.amount) if back else draw
        if kind in _ENDINGS and made.subject is not None:
            yield tenant, Draw(made.subject, -made.amount)
    for tenant, wallet in store.wallets.items():
        for hold in wallet.holds.values():
            if hold.is_open:
                yield from ((tenant, pin) for pin in wallet.pins[hold.id])


def _payments(store: Store) -> Iterator[Violation]:
    for payment, tenant in store.payments.items():
        if (tenant, TransactionKind.PURCHASE, payment) not in store.recorded:
            where = {"tenant": str(tenant), "payment": payment}
            yield Violation(Invariant.PAYMENTS_HAVE_THEIR_PURCHASE, where, "no purchase")


def _disputes(store: Store) -> Iterator[Violation]:
    purchases = (
        each.transaction
        for each in store.recorded.values()
        if each.transaction.kind is TransactionKind.PURCHASE
    )
    for purchase in purchases:
        payment = payment_of(store, purchase, EARLIEST)
        where = {"tenant": str(purchase.tenant), "payment": purchase.reference}
        for invariant, detail in dispute_problems(payment):
            yield Violation(invariant, where, detail)
        for dispute in payment.disputes:
            found = sorted(_parts_of(store, dispute))
            if found != (wanted := sorted((tenant, str(part)) for tenant, part in dispute.parts())):
                yield Violation(
                    Invariant.DISPUTES_ARE_SET_ASIDE, where, f"{found} instead of {wanted}"
                )
            lost = store.ids.get((dispute.tenant, dispute.chargeback or dispute.id))
            made = lost and store.recorded[lost].transaction
            if dispute.returned is not None and (not made or made.subject != dispute.id):
                detail = f"no chargeback of {dispute.reference}"
                yield Violation(Invariant.CHARGEBACKS_ARE_OF_A_DISPUTE, where, detail)


def _parts_of(store: Store, dispute: Dispute) -> Iterator[tuple[TenantId, str]]:
    """The credits that wallets set aside for *dispute*."""
    for tenant, wallet in store.wallets.items():
        for part in wallet.disputed.values():
            if part.is_open and part.reference == str(dispute.id):
                yield tenant, str(part.amount)


def _recipients(store: Store) -> Iterator[Violation]:
    intents = [each.intent for each in store.attempts.values() if each.intent.has_own_recipient]
    sharing = Counter((intent.provider, intent.recipient) for intent in intents)
    for intent in intents:
        count = sharing[intent.provider, intent.recipient]
        if count > 1:
            where = {"tenant": str(intent.tenant), "attempt": str(intent.attempt_id)}
            detail = f"{count} intents have {intent.recipient}"
            yield Violation(Invariant.RECIPIENTS_ARE_OF_ONE_INTENT, where, detail)


def _attempts(store: Store) -> Iterator[Violation]:
    for (tenant, attempt_id), attempt in store.attempts.items():
        where = {"tenant": str(tenant), "attempt": str(attempt_id)}
        if not attempt.is_credited_by(store.purchase(tenant, attempt.evidence)):
            detail = f"no purchase of {attempt.intent.amount} by {attempt.evidence}"
            yield Violation(Invariant.ATTEMPTS_HAVE_THEIR_PURCHASE, where, detail)
        events = store.events[tenant, attempt_id]
        if not attempt.follows(events):
            led_to = ", ".join(event.state for event in events) or "nothing"
            detail = f"{attempt.state} after {led_to}"
            yield Violation(Invariant.ATTEMPTS_FOLLOW_THEIR_EVENTS, where, detail)


def _events(store: Store) -> Iterator[Violation]:
    for entry in store.inbox.values():
        if entry.state is EventState.APPLIED and not is_claimed(store, entry):
            where = {"event": entry.event.id, "payment": entry.event.payment}
            detail = f"applied to {entry.tenant}, but not claimed"
            yield Violation(Invariant.EVENTS_ARE_OF_A_CLAIM, where, detail)
