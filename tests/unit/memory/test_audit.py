"""Violations in the in-memory tables are found, located and described."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import (
    Amount,
    AttemptState,
    Billing,
    Freeze,
    OpeningGrant,
    PaymentAttempts,
    Shortfall,
    TenantId,
    credits,
    usd,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.adapters.memory.store import Store
from cogni_billing.domain.identity import USAGE, account_of
from cogni_billing.domain.transactions import Draw, Transaction
from cogni_billing.domain.verification import Invariant
from cogni_billing.testing import ALICE, BOB, NOON, CountingIds, FakeVerifier, MovableClock, paid
from cogni_billing.testing.contracts.attempt_base import CARD
from cogni_billing.testing.contracts.inbox import success

HOUR = timedelta(hours=1)
CAROL = TenantId(UUID(int=2**64))
PURCHASE, CHARGE, REFUND, PAID_ATTEMPT, _, AN_INTENT, DEBT, GRANT = (
    f"00000000-0000-0000-0000-00000000000{n}" for n in range(1, 9)
)


def record(store: Store, transaction: str, changed: Callable[[Transaction], Transaction]) -> None:
    """Change the record of a transaction."""
    key = store.ids[ALICE, UUID(transaction)]
    recorded = store.recorded[key]
    store.recorded[key] = evolve(recorded, transaction=changed(recorded.transaction))


def forced(transaction: Transaction, **fields: Any) -> Transaction:
    """*transaction* with fields that its constructor would refuse."""
    made = copy.copy(transaction)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def change_line(store: Store) -> None:
    lines = store.lines[account_of(ALICE)]
    lines[1] = evolve(lines[1], amount=credits(-8))


def change_reversal(transaction: Transaction) -> Transaction:
    assert transaction.reversal is not None
    return evolve(transaction, reversal=evolve(transaction.reversal, amount=usd("0.01")))


def share_recipient(store: Store) -> None:
    """Move all intents to one address of a chain."""
    for key, found in store.attempts.items():
        store.attempts[key] = evolve(found, intent=evolve(found.intent, provider="1"))


def drop_event(store: Store, attempt: str) -> None:
    """Remove the first event of an attempt."""
    key = (CAROL, UUID(attempt))
    store.events[key] = store.events[key][1:]


def change_event(store: Store) -> None:
    store.inbox["stripe:evt_paid"] = evolve(store.inbox["stripe:evt_paid"], tenant=BOB)


def change_attempt(
    store: Store, attempt: str, *, intent: Amount | None = None, **fields: Any
) -> None:
    key = (CAROL, UUID(attempt))
    found = store.attempts[key]
    if intent is not None:
        fields["intent"] = evolve(found.intent, amount=intent)
    store.attempts[key] = evolve(found, **fields)


def change_grant(store: Store) -> None:
    wallet = store.wallets[BOB]
    (grant,) = wallet.grants.values()
    store.wallets[BOB] = wallet.with_grant(evolve(grant, remaining=credits(4)))


def expire_never(store: Store) -> None:
    wallet = store.wallets[BOB]
    (grant,) = wallet.grants.values()
    store.wallets[BOB] = wallet.with_grant(evolve(grant, expires_at=None))


def freeze_before_the_charge(store: Store) -> None:
    frozen = evolve(store.wallets[BOB], freeze=Freeze("r", NOON))
    store.wallets[BOB] = frozen
    store.frozen_after[BOB] = 0


def limit_the_overdraft_before_the_charge(store: Store) -> None:
    store.wallets[BOB] = evolve(store.wallets[BOB], overdraft_limit=credits(0))
    store.limited_after[BOB] = 0


def refuse_the_debt(store: Store) -> None:
    def refusing(made: Transaction) -> Transaction:
        assert made.reversal is not None
        return evolve(made, reversal=evolve(made.reversal, shortfall=Shortfall.REFUSE))

    key = store.ids[ALICE, UUID(REFUND)]
    store.recorded[key] = evolve(store.recorded[key], balance=credits(-1))
    record(store, REFUND, refusing)


def claim_another(store: Store) -> None:
    store.payments["stripe:pi_2"] = ALICE


BREAKS: Final[list[tuple[Callable[[Store], object], list[str]]]] = [
    (
        freeze_before_the_charge,
        [f"frozen_wallets_spend_nothing: tenant {BOB}: run-1 was charged while it is frozen"],
    ),
    (
        lambda store: record(store, CHARGE, lambda made: evolve(made, occurred_at=NOON - HOUR)),
        [
            f"charges_are_reported_in_time: tenant {ALICE}, transaction {CHARGE}: occurred_at: expected a moment from 2026-11-23 12:00:00.123456+00:00 to 2026-11-23 12:00:00.123456+00:00, got 2026-11-23 11:00:00.123456+00:00"
        ],
    ),
    (
        refuse_the_debt,
        [
            f"transactions_do_what_was_asked: tenant {ALICE}, transaction {REFUND}: a balance of -1 CREDIT after a refund that refuses a debt"
        ],
    ),
    (
        limit_the_overdraft_before_the_charge,
        [
            f"overdrafts_stay_within_their_limit: tenant {BOB}, transaction {DEBT}: -2 CREDIT with a limit of 0 CREDIT"
        ],
    ),
    (
        lambda store: record(store, PURCHASE, lambda made: evolve(made, policy={})),
        [
            f"shares_follow_the_policy: tenant {ALICE}, transaction {PURCHASE}: policy: expected the fields version, effective_from, mode, rules, and perhaps clawback, got '[]'",
        ],
    ),
    (
        lambda store: record(store, PURCHASE, lambda made: evolve(made, paid=usd(9))),
        [
            f"shares_follow_the_policy: tenant {ALICE}, transaction {PURCHASE}: 250000 CREDIT for 00000000-0000-4000-b000-000000000000 instead of 22500000 CREDIT for 00000000-0000-4000-b000-000000000000",
            f"purchases_credit_what_was_paid: tenant {ALICE}, transaction {PURCHASE}: 9.00 USD buys 90000000 CREDIT, and 1000000 CREDIT were credited",
            f"reversals_take_back_their_part: tenant {ALICE}, transaction {REFUND}: 200000 CREDIT, 50000 CREDIT taken and 0 CREDIT absorbed instead of 2222 CREDIT, 555 CREDIT",
        ],
    ),
    (
        lambda store: record(store, CHARGE, lambda made: forced(made, postings=made.postings[:1])),
        [
            f"transactions_sum_to_zero: tenant {ALICE}, transaction {CHARGE}: -7 CREDIT too much",
        ],
    ),
    (
        lambda store: record(store, REFUND, change_reversal),
        [
            f"reversals_follow_one_another: tenant {ALICE}, transaction {REFUND}: 0.01 USD after 0.00 USD make 0.02 USD of 0.10 USD",
            f"reversals_take_back_their_part: tenant {ALICE}, transaction {REFUND}: 200000 CREDIT, 50000 CREDIT taken and 0 CREDIT absorbed instead of 100000 CREDIT, 25000 CREDIT",
        ],
    ),
    (
        change_line,
        [
            f"postings_match: tenant {ALICE}, transaction {CHARGE}: -8 CREDIT, 7 CREDIT instead of -7 CREDIT, 7 CREDIT",
            f"wallets_match: tenant {ALICE}: 799993 CREDIT instead of 799992 CREDIT",
            f"lines_run_on: account {ALICE}, transaction {CHARGE}: 999993 CREDIT instead of 999992 CREDIT",
            f"lines_run_on: account {ALICE}, transaction {REFUND}: 799993 CREDIT instead of 799992 CREDIT",
        ],
    ),
    (
        lambda store: store.lines[USAGE].clear(),
        [
            f"postings_match: tenant {ALICE}, transaction {CHARGE}: -7 CREDIT, nothing instead of -7 CREDIT, 7 CREDIT",
            f"postings_match: tenant {BOB}, transaction {DEBT}: -2 CREDIT, nothing instead of -2 CREDIT, 2 CREDIT",
        ],
    ),
    (
        lambda store: store.payments.update({"stripe:pi_1": BOB}),
        [
            f"purchases_claim_their_payment: tenant {ALICE}, transaction {PURCHASE}: stripe:pi_1",
            "payments_have_their_purchase: tenant 0b0b0000-0000-4000-8000-000000000002, payment stripe:pi_1: no purchase",
            f"events_are_of_a_claim: event stripe:evt_paid, payment stripe:pi_1: applied to {ALICE}, but not claimed",
        ],
    ),
    (
        claim_another,
        [
            f"payments_have_their_purchase: tenant {ALICE}, payment stripe:pi_2: no purchase",
        ],
    ),
    (
        lambda store: change_attempt(store, PAID_ATTEMPT, intent=usd("3.00")),
        [
            f"attempts_have_their_purchase: tenant {CAROL}, attempt {PAID_ATTEMPT}: no purchase of 3.00 USD by stripe:pi_9",
        ],
    ),
    (
        lambda store: change_attempt(store, AN_INTENT, state=AttemptState.CREDITED),
        [
            f"attempts_have_their_purchase: tenant {CAROL}, attempt {AN_INTENT}: no purchase of 2.00 USD by None",
            f"attempts_follow_their_events: tenant {CAROL}, attempt {AN_INTENT}: CREDITED after nothing",
        ],
    ),
    (
        share_recipient,
        [
            f"recipients_are_of_one_intent: tenant {CAROL}, attempt {PAID_ATTEMPT}: 2 intents have acct_1",
            f"recipients_are_of_one_intent: tenant {CAROL}, attempt {AN_INTENT}: 2 intents have acct_1",
        ],
    ),
    (
        lambda store: drop_event(store, PAID_ATTEMPT),
        [
            f"attempts_follow_their_events: tenant {CAROL}, attempt {PAID_ATTEMPT}: CREDITED after CREDITED",
        ],
    ),
    (
        lambda store: change_attempt(store, PAID_ATTEMPT, state=AttemptState.REJECTED),
        [
            f"attempts_follow_their_events: tenant {CAROL}, attempt {PAID_ATTEMPT}: REJECTED after PENDING_UNVERIFIED, CREDITED",
        ],
    ),
    (
        change_event,
        [
            f"events_are_of_a_claim: event stripe:evt_paid, payment stripe:pi_1: applied to {BOB}, but not claimed",
        ],
    ),
    (
        change_grant,
        [
            f"grants_add_up: tenant {BOB}, grant {GRANT}: 6 CREDIT taken instead of 7 CREDIT, of 10 CREDIT",
        ],
    ),
    (
        expire_never,
        [
            f"grants_end_as_set: tenant {BOB}, grant {GRANT}: at None instead of 2026-11-23 14:00:00.123456+00:00",
        ],
    ),
    (
        lambda store: store.accounts.pop(ALICE),
        [
            f"wallets_have_accounts: tenant {ALICE}: no account",
        ],
    ),
]


@pytest.fixture
def unit_of_work() -> InMemoryUnitOfWork:
    """Open a ledger with transactions of three tenants.

    Alice has paid ten cents, spent seven credits and got two cents back. Carol has paid two
    dollars. A grant of ten credits has repaid Bob's debt of two, and he has set five aside.
    """
    unit_of_work = InMemoryUnitOfWork()
    clock, ids, verifier = MovableClock(), CountingIds(), FakeVerifier()
    billing = Billing(unit_of_work, clock=clock, ids=ids)
    billing.open_account(BOB)
    billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_1")
    billing.charge(ALICE, credits(7), reference="run-1")
    billing.refund(ALICE, payment="stripe:pi_1", amount=usd("0.02"), reference="re_1")
    attempts = PaymentAttempts(
        unit_of_work, verifier=verifier, destinations=CARD, clock=clock, ids=ids
    )
    verifier.tell("stripe:pi_9", paid)
    intent = attempts.create_intent(CAROL, usd("2.00"))
    attempts.submit(CAROL, intent.attempt_id, "stripe:pi_9")
    attempts.create_intent(CAROL, usd("2.00"))
    attempts.process(success(None, 10, payment="stripe:pi_1"))
    billing.charge(BOB, credits(2), reference="run-1", allow_overdraft=True)
    granted = billing.grant(
        BOB, credits(10), source="promo:a", reference="a", expires_at=NOON + HOUR
    )
    billing.extend_grant(BOB, granted.transaction_id, reference="a", expires_at=NOON + 2 * HOUR)
    billing.hold(BOB, credits(5), reference="run-2")
    return unit_of_work


@pytest.mark.parametrize(("broken", "found"), BREAKS)
def test_a_violation_is_located_and_described(
    unit_of_work: InMemoryUnitOfWork, broken: Callable[[Store], object], found: list[str]
) -> None:
    assert Billing(unit_of_work).verify().violations == ()

    broken(unit_of_work._store)

    assert [str(violation) for violation in Billing(unit_of_work).verify().violations] == found


def test_an_opening_that_does_not_come_first_is_found() -> None:
    unit_of_work = InMemoryUnitOfWork()
    billing = Billing(unit_of_work, clock=MovableClock(), ids=CountingIds())
    grant = OpeningGrant(amount=credits(5), source="promo:a", granted_at=NOON)
    billing.opening(ALICE, purchased=credits(7), grants=[grant], as_of=NOON)
    billing.charge(ALICE, credits(1), reference="run-1")
    assert billing.verify().violations == ()
    lines = unit_of_work._store.lines[account_of(ALICE)]

    lines.insert(0, lines.pop())

    found = {violation.invariant for violation in billing.verify().violations}
    assert found == {Invariant.OPENINGS_COME_FIRST, Invariant.LINES_RUN_ON}


HOLD = "00000000-0000-0000-0000-000000000003"
UNEQUAL = f"holds_add_up: tenant {ALICE}, hold {HOLD}:"
GIVEN_BACK = f"grants_add_up: tenant {ALICE}, grant 00000000-0000-0000-0000-000000000002: 30 CREDIT taken instead of 20 CREDIT, of 30 CREDIT"
HOLD_BREAKS: Final[list[tuple[Callable[[Store], object], list[str]]]] = [
    (
        lambda store: change_wallet(store, "holds", lambda hold: evolve(hold, amount=credits(51))),
        [f"{UNEQUAL} 20 CREDIT captured and 31 CREDIT held of 51 CREDIT"],
    ),
    (
        lambda store: change_wallet(store, "holds", lambda hold: evolve(hold, captured=credits(9))),
        [
            f"{UNEQUAL} 9 CREDIT captured and 41 CREDIT held of 50 CREDIT",
            f"captures_match_their_hold: tenant {ALICE}, hold {HOLD}: 9 CREDIT captured of it, and 20 CREDIT by captures",
        ],
    ),
    (
        lambda store: change_wallet(store, "pins", lambda _: ()),
        [f"{UNEQUAL} 20 CREDIT captured and 30 CREDIT held of 50 CREDIT", GIVEN_BACK],
    ),
    (
        lambda store: change_wallet(store, "changes", lambda changes: changes[:-1]),
        [f"{UNEQUAL} 20 CREDIT captured and 30 CREDIT held of 50 CREDIT"],
    ),
    (
        lambda store: store.wallets.update({ALICE: evolve(store.wallets[ALICE], holds={})}),
        [
            f"captures_match_their_hold: tenant {ALICE}, hold {HOLD}: 20 CREDIT of an unknown hold",
            GIVEN_BACK,
        ],
    ),
]


def change_wallet(store: Store, table: str, change: Callable[[Any], Any]) -> None:
    wallet = store.wallets[ALICE]
    changed: Any = {table: {UUID(HOLD): change(getattr(wallet, table)[UUID(HOLD)])}}
    store.wallets[ALICE] = evolve(wallet, **changed)


@pytest.mark.parametrize(("broken", "found"), HOLD_BREAKS)
def test_a_violation_of_a_hold_is_located_and_described(
    broken: Callable[[Store], object], found: list[str]
) -> None:
    """A hold of 50 credits, 30 of them of a grant. 20 are captured."""
    unit_of_work = InMemoryUnitOfWork()
    billing = Billing(unit_of_work, ids=CountingIds())
    billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_1")
    billing.grant(ALICE, credits(30), source="promo:a", reference="a")
    hold = billing.hold(ALICE, credits(50), reference="run-1")
    billing.capture(ALICE, hold.id, credits(20), reference="run-1", final=False)
    assert billing.verify().violations == ()

    broken(unit_of_work._store)

    assert [str(violation) for violation in billing.verify().violations] == found


LOT, SECOND_REVERSAL = (f"00000000-0000-0000-0000-00000000000{n}" for n in (2, 5))
REVERSAL_BREAKS: Final[list[tuple[Callable[[Store], object], list[str]]]] = [
    (
        lambda store: change_given_back(store, total=credits(40)),
        ["reversals_give_back_a_charge: 15 CREDIT after 15 CREDIT make 40 CREDIT of 40 CREDIT"],
    ),
    (
        lambda store: change_given_back(store, amount=credits(26), total=credits(41)),
        ["reversals_give_back_a_charge: 26 CREDIT after 15 CREDIT make 41 CREDIT of 40 CREDIT"],
    ),
    (
        lambda store: record(
            store, SECOND_REVERSAL, lambda made: forced(made, absorbed=credits(5))
        ),
        [
            "postings_match: 15 CREDIT, nothing, -15 CREDIT instead of 15 CREDIT, 5 CREDIT, -20 CREDIT",
            "reversals_return_to_their_lots: 15 CREDIT and 5 CREDIT expired instead of 15 CREDIT",
        ],
    ),
    (
        lambda store: give_back_to_the_grant(store, credits(16)),
        [
            "grants_add_up: 10 CREDIT taken instead of 9 CREDIT, of 30 CREDIT",
            "reversals_return_to_their_lots: 16 CREDIT and 0 CREDIT expired instead of 15 CREDIT",
        ],
    ),
]


FIRST, SECOND, BOUGHT, UNSPENT, DISPUTED = (
    f"00000000-0000-0000-0000-00000000000{n}" for n in (3, 4, 1, 6, 7)
)
EXPIRED = f"reversals_take_back_expired_credits: tenant {ALICE}, transaction"


def change_lot(store: Store, lot: str, **fields: Any) -> None:
    wallet = store.wallets[ALICE]
    store.wallets[ALICE] = wallet.with_grant(evolve(wallet.grants[UUID(lot)], **fields))


def lapsing(refund: Transaction, lapsed: int) -> Transaction:
    return forced(refund, lapsed=credits(lapsed), postings=refund.postings)


LOT_BREAKS: Final[list[tuple[Callable[[Store], object], list[str]]]] = [
    (
        lambda store: record(store, SECOND, lambda made: lapsing(made, 600_000)),
        [
            f"reversals_take_back_their_part: tenant {ALICE}, transaction {SECOND}: 100000 CREDIT, 150000 CREDIT taken and 0 CREDIT absorbed instead of 600000 CREDIT, 150000 CREDIT",
            f"{EXPIRED} {SECOND}: 600000 CREDIT of 500000 CREDIT expired, and 100000 CREDIT of other credits",
        ],
    ),
    (
        lambda store: record(
            store,
            SECOND,
            lambda made: forced(
                made,
                lapsed=credits(499_999),
                amount=credits(-100_001),
                postings=made.postings,
            ),
        ),
        [
            f"{EXPIRED} {SECOND}: 499999 CREDIT of 500000 CREDIT expired, and 100001 CREDIT of other credits",
        ],
    ),
    (
        lambda store: record(store, FIRST, lambda made: lapsing(made, 1)),
        [
            f"reversals_take_back_their_part: tenant {ALICE}, transaction {FIRST}: 200000 CREDIT, 50000 CREDIT taken and 0 CREDIT absorbed instead of 200000 CREDIT, 50000 CREDIT",
            f"{EXPIRED} {FIRST}: 1 CREDIT of 0 CREDIT expired, and 0 CREDIT of other credits",
            f"{EXPIRED} {SECOND}: 500000 CREDIT of 499999 CREDIT expired, and 100000 CREDIT of other credits",
        ],
    ),
    (
        lambda store: change_lot(store, BOUGHT, expires_at=NOON + HOUR),
        [
            f"grants_end_as_set: tenant {ALICE}, grant {BOUGHT}: at 2026-11-23 13:00:00.123456+00:00 instead of None",
        ],
    ),
    (
        lambda store: change_lot(store, UNSPENT, expires_at=None),
        [
            f"grants_end_as_set: tenant {ALICE}, grant {UNSPENT}: at None instead of 2026-11-23 14:00:00.123456+00:00",
        ],
    ),
    (
        lambda store: change_lot(store, DISPUTED, expires_at=NOON + 2 * HOUR),
        [
            f"grants_end_as_set: tenant {ALICE}, grant {DISPUTED}: at 2026-11-23 14:00:00.123456+00:00 instead of None",
        ],
    ),
    (
        lambda store: change_lot(store, UNSPENT, remaining=credits(5)),
        [
            f"grants_add_up: tenant {ALICE}, grant {UNSPENT}: 99995 CREDIT taken instead of 0 CREDIT, of 100000 CREDIT",
        ],
    ),
]


def change_given_back(store: Store, **fields: Any) -> None:
    def changed(made: Transaction) -> Transaction:
        assert made.giving_back is not None
        return forced(made, giving_back=evolve(made.giving_back, **fields))

    record(store, SECOND_REVERSAL, changed)


def give_back_to_the_grant(store: Store, part: Amount) -> None:
    key = store.ids[ALICE, UUID(SECOND_REVERSAL)]
    store.recorded[key] = evolve(store.recorded[key], draws=(Draw(UUID(LOT), part),))


@pytest.mark.parametrize(("broken", "found"), REVERSAL_BREAKS)
def test_a_violation_of_a_reversal_is_located_and_described(
    broken: Callable[[Store], object], found: list[str]
) -> None:
    """A charge of 40 credits, 30 of them of a grant. 15 are given back twice."""
    unit_of_work = InMemoryUnitOfWork()
    billing = Billing(unit_of_work, ids=CountingIds())
    billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_1")
    billing.grant(ALICE, credits(30), source="promo:a", reference="a")
    billing.charge(ALICE, credits(40), reference="run-1")
    for reference in ("back-1", "back-2"):
        billing.reverse(ALICE, charge="run-1", amount=credits(15), reference=reference)
    assert billing.verify().violations == ()

    broken(unit_of_work._store)

    violations = billing.verify().violations
    assert [f"{each.invariant.name.lower()}: {each.detail}" for each in violations] == found
    assert {"tenant": str(ALICE), "transaction": SECOND_REVERSAL} in [
        each.where for each in violations
    ]


@pytest.mark.parametrize(("broken", "found"), LOT_BREAKS)
def test_a_violation_of_a_purchase_that_expires_is_located_and_described(
    broken: Callable[[Store], object], found: list[str]
) -> None:
    """Alice has spent 300 000 of a million credits. 200 000 were refunded, and 500 000 expired."""
    unit_of_work, clock = InMemoryUnitOfWork(), MovableClock()
    billing = Billing(unit_of_work, clock=clock, ids=CountingIds())
    billing.confirm_purchase(ALICE, usd("0.10"), payment="stripe:pi_1", expires_in=HOUR)
    billing.charge(ALICE, credits(300_000), reference="run-1")
    billing.refund(ALICE, payment="stripe:pi_1", amount=usd("0.02"), reference="re_1")
    clock.move(HOUR)
    billing.refund(ALICE, payment="stripe:pi_1", amount=usd("0.06"), reference="re_2")
    billing.adjust(ALICE, credits(100_000), reason="no debt", reference="a")
    for payment in ("stripe:pi_3", "stripe:pi_4"):
        billing.confirm_purchase(ALICE, usd("0.01"), payment=payment, expires_in=HOUR)
    billing.open_dispute(ALICE, payment="stripe:pi_4", reference="dp_1")
    assert billing.verify().violations == ()

    broken(unit_of_work._store)

    assert [str(violation) for violation in billing.verify().violations] == found


def test_a_new_wallet_has_no_violations(unit_of_work: InMemoryUnitOfWork) -> None:
    """The wallet has no posting, and its account has no line."""
    billing, dave = Billing(unit_of_work), TenantId(UUID(int=2**65))
    billing.open_account(dave)
    billing.refund(ALICE, payment="stripe:pi_1", reference="re_2")
    with unit_of_work.scope(dave) as scope:
        scope.ledger.expire_due(unit_of_work.clock.now())

    assert billing.verify().violations == ()
