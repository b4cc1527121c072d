"""Contract: an interrupted call is atomic, and its retry completes it once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from uuid import UUID

import pytest
from attrs import evolve, frozen

from cogni_billing import (
    AccountId,
    Amount,
    Attempt,
    AttemptRules,
    Billing,
    Dispute,
    EventState,
    GrantSchedule,
    Hold,
    InboxEntry,
    InboxPage,
    Overrun,
    PaymentAttempts,
    Schedule,
    UnknownAccount,
    credits,
    usd,
)
from cogni_billing.domain.receipts import Receipt
from cogni_billing.ports.environment import IdSource
from cogni_billing.ports.scope import UnitOfWork
from cogni_billing.testing.base import ALICE, BOB, Contract, CountingIds, Totals
from cogni_billing.testing.contracts.attempt_base import CARD
from cogni_billing.testing.contracts.inbox import refund, success
from cogni_billing.testing.verifiers import FakeVerifier, paid

PAYMENT: Final = "stripe:ready"
MOST_PLACES: Final = 60


def held(billing: Billing) -> UUID:
    """The id of the same hold, every time."""
    ready = billing.find_hold(ALICE, "ready")
    return (ready or billing.hold(ALICE, credits(30), reference="ready")).id


PLAN: Final = GrantSchedule("plan", credits(5), every="month")
NEXT_CENTURY: Final = datetime(2101, 1, 1, tzinfo=UTC)


def scheduled(billing: Billing) -> UUID:
    """The id of the same schedule, every time."""
    return billing.schedule_grants(ALICE, PLAN, reference="ready").id


INTENT, PENDING = UUID(int=1001), UUID(int=1002)
"""Attempts of Alice. The first has no evidence yet."""


def attempts_over(billing: Billing, *paid_by: str, ids: IdSource | None = None) -> PaymentAttempts:
    """`PaymentAttempts` like *billing*, without a polling interval. *paid_by* were paid."""
    verifier = FakeVerifier()
    for evidence in paid_by:
        verifier.tell(evidence, paid)
    return PaymentAttempts(
        billing.unit_of_work,
        verifier=verifier,
        destinations=CARD,
        policy=billing.policy,
        rules=AttemptRules(checks_every=timedelta(0)),
        clock=billing.clock,
        ids=ids,
    )


def concluded(billing: Billing) -> Attempt:
    """Report the pending attempt: the attempt, its purchase and its history, in one transaction."""
    attempts = attempts_over(billing)
    pending = attempts.status(ALICE, PENDING)
    assert pending.evidence is not None
    return attempts.report(ALICE, PENDING, pending.evidence, paid(pending.intent))


PAID: Final = success(
    None, 200, payment="stripe:c", tenant=ALICE, attempt_id=INTENT, id="stripe:evt_c"
)


def swept(billing: Billing) -> InboxPage:
    """Apply an event that waited for its purchase."""
    attempts = attempts_over(billing)
    attempts.sweep_inbox()
    return attempts.inbox(EventState.APPLIED)


CALLS: Final[dict[str, Callable[[Billing], object]]] = {
    "open_account": lambda billing: billing.open_account(BOB),
    "confirm_purchase": lambda billing: billing.confirm_purchase(
        ALICE, usd("1.00"), payment="stripe:1"
    ),
    "confirm_purchase, the first": lambda billing: billing.confirm_purchase(
        BOB, usd("1.00"), payment="stripe:1"
    ),
    "confirm_purchases": lambda billing: billing.confirm_purchases(
        {"tenant": ALICE, "amount": usd("1.00"), "payment": f"stripe:{n}"} for n in range(3)
    ),
    "charge": lambda billing: billing.charge(ALICE, credits(5), reference="c1"),
    "charge_many": lambda billing: billing.charge_many(
        {"tenant": ALICE, "amount": credits(5), "reference": f"c{n}"} for n in range(3)
    ),
    "hold": lambda billing: billing.hold(ALICE, credits(5), reference="h1"),
    "capture": lambda billing: billing.capture(ALICE, held(billing), credits(4), reference="k1"),
    "capture of a part": lambda billing: billing.capture(
        ALICE, held(billing), credits(40), reference="k2", final=False, overrun=Overrun.AVAILABLE
    ),
    "extend": lambda billing: billing.extend(ALICE, held(billing), credits(4), reference="e1"),
    "release": lambda billing: billing.release(ALICE, held(billing)),
    "release of a part": lambda billing: billing.release(
        ALICE, held(billing), credits(4), reference="p1"
    ),
    "grant": lambda billing: billing.grant(ALICE, credits(5), source="promo:a", reference="g1"),
    "grant that waits": lambda billing: billing.grant(
        BOB, credits(5), source="promo:a", reference="g2", effective_from=NEXT_CENTURY
    ),
    "schedule_grants": lambda billing: billing.schedule_grants(ALICE, PLAN, reference="s1"),
    "schedule_grants in place of another": lambda billing: billing.schedule_grants(
        ALICE, PLAN, reference="s2", replaces=scheduled(billing)
    ),
    "refund": lambda billing: billing.refund(ALICE, payment=PAYMENT, reference="r1"),
    "open_dispute": lambda billing: billing.open_dispute(ALICE, payment=PAYMENT, reference="d1"),
    "win_dispute": lambda billing: billing.win_dispute(ALICE, payment="stripe:d", reference="d"),
    "lose_dispute": lambda billing: billing.lose_dispute(ALICE, payment="stripe:d", reference="d"),
}
CALLS_OF_ATTEMPTS: Final[dict[str, Callable[[Billing], object]]] = {
    "submit": lambda billing: attempts_over(billing, "stripe:a").submit(ALICE, INTENT, "stripe:a"),
    "status": lambda billing: attempts_over(billing, "stripe:b").status(ALICE, PENDING),
    "a verified attempt": concluded,
    "process, a success": lambda billing: attempts_over(billing).process(PAID),
    "process, a refund": lambda billing: attempts_over(billing).process(
        refund("re_9", 40, payment=PAYMENT)
    ),
    "process, a refund that waits": lambda billing: attempts_over(billing).process(
        refund("re_9", 40)
    ),
    "sweep_inbox": swept,
}
EACH: Final = CALLS | CALLS_OF_ATTEMPTS


@frozen
class Call:
    """A call of `EACH`, by its name, so that another process can make it."""

    name: str

    def __call__(self, billing: Billing) -> object:
        """Make the call. The error of a failed request in a batch is raised."""
        given = EACH[self.name](billing)
        for outcome in given if isinstance(given, tuple) else ():
            if outcome.error is not None:
                raise outcome.error
        return given


BreakOff = Callable[[int, Call], bool]
"""Makes the call, with a `Billing` of its own over the same store, and interrupts it at a place.

Places count the requests to the store. Place 0 is before the first request. The last place is
before or during the answer to the commit. Returns false if the call has no such place.
"""


@frozen
class State:
    """The state that a call can change."""

    totals: dict[AccountId, Decimal]
    held: Amount
    transactions: int
    bob_is_known: bool
    events: dict[str, EventState]


def known(billing: Billing) -> bool:
    """True if Bob has an account."""
    try:
        billing.balance(BOB)
    except UnknownAccount:
        return False
    return True


def state(billing: Billing, totals: Totals) -> State:
    """The present state. Also checks that the ledger verifies."""
    verification = billing.verify()
    assert verification.violations == ()
    there, alice = totals(), billing.balance(ALICE)
    assert there[AccountId(ALICE)] == alice.posted.value, "`totals` reads another ledger"
    return State(there, alice.held, verification.transactions, known(billing), events(billing))


def events(billing: Billing) -> dict[str, EventState]:
    """The state of each event in the inbox."""
    attempts = attempts_over(billing)
    pages = map(attempts.inbox, EventState)
    return {entry.event.id: entry.state for page in pages for entry in page.entries}


def answer(given: object) -> object:
    """The answer of a call without `replayed`."""
    if isinstance(given, tuple):
        return tuple(answer(outcome.receipt) for outcome in given)
    if isinstance(given, (Dispute, Hold, InboxEntry, Receipt, Schedule)):
        return evolve(given, replayed=False)
    return given


def ready(billing: Billing) -> None:
    """Prepare a ledger on which each call of `CALLS` can succeed."""
    billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)
    billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:d")
    billing.open_dispute(ALICE, payment="stripe:d", reference="d")
    held(billing)
    scheduled(billing)


def attempted(billing: Billing) -> None:
    """Create the attempts that the calls continue."""
    attempts = attempts_over(billing, ids=CountingIds(1000))
    for _ in (INTENT, PENDING):
        attempts.create_intent(ALICE, usd("2.00"))
    attempts.submit(ALICE, PENDING, "stripe:b")
    attempts.process(refund("re_1", 40, payment="stripe:waited"))
    billing.confirm_purchase(ALICE, usd("1.00"), payment="stripe:waited")


def settles(billing: Billing, totals: Totals, call: Call, before: State, broken: State) -> None:
    """Check that the call happened or did not, and that a retry completes it once."""
    first = call(billing)
    after = state(billing, totals)
    again = call(billing)

    assert answer(again) == answer(first)
    assert state(billing, totals) == after
    assert before != after
    assert broken in (before, after)


class BreakingOffContract(Contract):
    """Every call that writes, interrupted at every place."""

    @pytest.mark.parametrize("name", EACH)
    def test_an_interrupted_call_is_atomic_and_its_retry_completes_it_once(
        self,
        new_unit_of_work: Callable[[], UnitOfWork],
        totals: Totals,
        break_off: BreakOff,
        name: str,
    ) -> None:
        call = Call(name)
        for place in range(MOST_PLACES):
            steady = Billing(new_unit_of_work())
            ready(steady)
            if name in CALLS_OF_ATTEMPTS:
                attempted(steady)
            before = state(steady, totals)
            if not break_off(place, call):
                assert place > 0
                return
            broken = state(steady, totals)
            assert place > 0 or broken == before, "a call interrupted at place 0 has written"
            settles(steady, totals, call, before, broken)
        pytest.fail(f"the call has more than {MOST_PLACES} places; raise MOST_PLACES")
