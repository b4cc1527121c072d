"""Two calls in every order of their statements with at most two preemptions.

The result must equal that of the two calls one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from attrs import asdict, evolve

from cogni_billing import (
    SYSTEM_TENANT_ID,
    Attempt,
    Billing,
    Dispute,
    Hold,
    Outcome,
    Overrun,
    PaymentVerified,
    Shortfall,
    TenantId,
    credits,
    usd,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork, reset
from cogni_billing.domain.receipts import Receipt
from cogni_billing.testing import ALICE, BOB, NOON, CountingIds, MovableClock
from cogni_billing.testing.contracts.breaking_off import attempts_over
from cogni_billing.testing.contracts.refunds import policy
from stack.conftest import Database
from stack.support.interleaving import TO_THE_END, Call, Stage, Told, schedules, staged

HOUR = timedelta(hours=1)
CAROL = TenantId(UUID(int=2**100))
PAYMENT = "stripe:ready"
HELD = UUID(int=4)  # the id of the fourth record
GRANTED = UUID(int=3)
IDS = {"id", "transaction_id", "chargeback"}
INTENTS = {ALICE: UUID(int=1001), BOB: UUID(int=1002)}


def buy(payment: str, amount: str = "1.00", tenant: object = ALICE) -> Call:
    return lambda billing: billing.confirm_purchase(tenant, usd(amount), payment=payment)  # type: ignore[arg-type]


def charge(amount: int, reference: str = "run-1", tenant: object = ALICE) -> Call:
    return lambda billing: billing.charge(tenant, credits(amount), reference=reference)  # type: ignore[arg-type]


def hold(amount: int, reference: str = "hold-1", **options: Any) -> Call:
    return lambda billing: billing.hold(ALICE, credits(amount), reference=reference, **options)


def capture(amount: int, reference: str = "run-1", **rules: Any) -> Call:
    return lambda billing: billing.capture(
        ALICE, HELD, credits(amount), reference=reference, **rules
    )


def extend_hold(billing: Billing) -> object:
    return billing.extend(ALICE, HELD, credits(60), expires_in=HOUR, reference="e-1")


def release_part(amount: int, reference: str = "p-1") -> Call:
    return lambda billing: billing.release(ALICE, HELD, credits(amount), reference=reference)


def release(billing: Billing) -> object:
    return billing.release(ALICE, HELD)


def grant(billing: Billing) -> object:
    return billing.grant(ALICE, credits(5), source="promo:b", reference="b")


def void(reference: str = "v-1") -> Call:
    return lambda billing: billing.void_grant(ALICE, GRANTED, reference=reference)


def extend(reference: str = "e-1") -> Call:
    return lambda billing: billing.extend_grant(
        ALICE, GRANTED, reference=reference, expires_in=3 * HOUR
    )


def first_grant(billing: Billing) -> object:
    return billing.grant(CAROL, credits(5), source="promo:b", reference="b")


def buy_many(*payments: str) -> Call:
    return lambda billing: states(
        billing.confirm_purchases(
            {"tenant": CAROL, "amount": usd("1.00"), "payment": payment} for payment in payments
        )
    )


def states(outcomes: Sequence[Outcome[Any]]) -> list[object]:
    """Return the state or the error of each."""
    return [type(outcome.error) if outcome.error else outcome.state for outcome in outcomes]


def refund(amount: str, reference: str, shortfall: Shortfall = Shortfall.DEBT) -> Call:
    return lambda billing: billing.refund(
        ALICE, payment=PAYMENT, amount=usd(amount), reference=reference, shortfall=shortfall
    )


def failed(refund: str, reference: str) -> Call:
    return lambda billing: billing.refund_failed(
        ALICE, payment=PAYMENT, refund=refund, reference=reference
    )


def give_back(amount: int, reference: str = "back-1") -> Call:
    return lambda billing: billing.reverse(
        ALICE, charge="used", amount=credits(amount), reference=reference
    )


def adjust(amount: int, reference: str = "fix-1") -> Call:
    return lambda billing: billing.adjust(
        ALICE, credits(amount), reason="counted twice", reference=reference
    )


def freeze(billing: Billing) -> object:
    return billing.freeze(ALICE, "under review")


def unfreeze(billing: Billing) -> object:
    return billing.unfreeze(ALICE)


def submit(tenant: TenantId = ALICE) -> Call:
    return lambda billing: attempts_over(billing, "stripe:1").submit(
        tenant, INTENTS[tenant], "stripe:1"
    )


def report(evidence: str) -> Call:
    found = PaymentVerified(
        provider="stripe", token="usd", sender=None, recipient="acct_1", raw_amount=200
    )
    return lambda billing: attempts_over(billing).report(ALICE, INTENTS[ALICE], evidence, found)


# In this ledger Alice has bought 10 000 000 credits, and has 30 of them on hold. She has a grant of
# 50 that expires within the hour. Bob has bought the same. A part of Alice's payment is disputed.
PAIRS: dict[str, tuple[Call, Call]] = {
    "a payment twice": (buy("stripe:1"), buy("stripe:1")),
    "a payment with two amounts": (buy("stripe:1"), buy("stripe:1", "2.00")),
    "two payments of one tenant": (buy("stripe:1"), buy("stripe:2")),
    "two tenants who buy": (buy("stripe:1"), buy("stripe:2", tenant=BOB)),
    "two tenants with one payment": (buy("stripe:1"), buy("stripe:1", tenant=BOB)),
    "a purchase and a charge": (buy("stripe:1"), charge(9_999_990)),
    "a charge twice": (charge(5), charge(5)),
    "a charge twice and enough for one": (charge(6_000_000), charge(6_000_000)),
    "two charges and enough for one": (charge(6_000_000), charge(6_000_000, "run-2")),
    "a charge and a hold and enough for one": (charge(6_000_000), hold(6_000_000)),
    "a hold twice and enough for one": (hold(6_000_000), hold(6_000_000)),
    "a hold that expires twice and enough for one": (
        hold(6_000_000, expires_at=NOON + HOUR),
        hold(6_000_000, expires_at=NOON + HOUR),
    ),
    "a capture twice": (capture(20), capture(20)),
    "two captures of one hold": (capture(20), capture(20, "run-2")),
    "a release twice": (release, release),
    "a capture of a part twice": (capture(20, final=False), capture(20, final=False)),
    "two captures of parts and enough for one": (
        capture(20, final=False),
        capture(20, "run-2", final=False),
    ),
    "a capture of a part and a release": (capture(20, final=False), release),
    "an overrun and a charge and enough for one": (
        capture(6_000_000, overrun=Overrun.AVAILABLE),
        charge(6_000_000),
    ),
    "an extension of a hold twice": (extend_hold, extend_hold),
    "an extension of a hold and a capture": (extend_hold, capture(20)),
    "a release of a part twice": (release_part(20), release_part(20)),
    "two releases of parts and enough for one": (release_part(20), release_part(20, "p-2")),
    "a refund twice and enough for one": (refund("0.60", "re_1"), refund("0.60", "re_1")),
    "a refund of the rest twice": (
        lambda billing: billing.refund(ALICE, payment=PAYMENT, reference="re_1"),
        lambda billing: billing.refund(ALICE, payment=PAYMENT, reference="re_1"),
    ),
    "a grant twice": (grant, grant),
    "a void twice": (void(), void()),
    "two voids of one grant": (void(), void("v-2")),
    "a void, and a charge that draws its grant": (void(), charge(15)),
    "a void and a release": (void(), release),
    "a void and an extension": (void(), extend()),
    "an extension twice": (extend(), extend()),
    "two extensions to one moment": (extend(), extend("e-2")),
    "a first purchase twice": (buy("stripe:1", tenant=CAROL), buy("stripe:1", tenant=CAROL)),
    "a first grant twice": (first_grant, first_grant),
    "batches of first purchases in two orders": (
        buy_many("stripe:1", "stripe:2"),
        buy_many("stripe:2", "stripe:1"),
    ),
    "a batch and its replay": (buy_many("stripe:1", "stripe:2"), buy_many("stripe:1", "stripe:2")),
    "two batches that share a payment": (
        buy_many("stripe:1", "stripe:2"),
        buy_many("stripe:2", "stripe:3"),
    ),
    "all or nothing, and a charge under one of its keys": (
        lambda billing: states(
            billing.charge_many(
                [{"tenant": ALICE, "amount": credits(n), "reference": f"run-{n}"} for n in (1, 2)],
                all_or_nothing=True,
            )
        ),
        charge(5, "run-2"),
    ),
    "a dispute twice": (
        lambda billing: billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_2"),
        lambda billing: billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_2"),
    ),
    "a capture and a release": (
        capture(20),
        release,
    ),
    "a purchase and a refund": (buy("stripe:1"), refund("0.50", "re_1")),
    "two refunds and enough for one": (refund("0.60", "re_1"), refund("0.60", "re_2")),
    "a refund that is clamped and a charge": (
        refund("0.60", "re_1", Shortfall.CLAMP),
        charge(6_000_000),
    ),
    "a dispute that is won and lost": (
        lambda billing: billing.win_dispute(ALICE, payment=PAYMENT, reference="dp_1"),
        lambda billing: billing.lose_dispute(ALICE, payment=PAYMENT, reference="dp_1"),
    ),
    "a refund that failed twice": (
        failed("re_0", "f-1"),
        failed("re_0", "f-2"),
    ),
    "a refund that failed, and a refund": (failed("re_0", "f-1"), refund("0.60", "re_1")),
    "a refund and a dispute": (
        refund("0.60", "re_1"),
        lambda billing: billing.open_dispute(ALICE, payment=PAYMENT, reference="dp_2"),
    ),
    "a refund, and a partner who spends its share": (
        refund("0.90", "re_1"),
        charge(10_900_000, tenant=BOB),
    ),
    "a first purchase and a charge": (buy("stripe:1", tenant=CAROL), charge(5, tenant=CAROL)),
    "a first purchase and a hold": (
        buy("stripe:1", tenant=CAROL),
        lambda billing: billing.hold(CAROL, credits(5), reference="hold-1"),
    ),
    "a payment twice, when something is due": (buy("stripe:1"), buy("stripe:1")),
    "a charge twice, when something is due": (charge(5), charge(5)),
    "a hold twice, when something is due": (hold(5), hold(5)),
    "a refused charge twice, when something is due": (charge(10**9), charge(10**9)),
    "a charge and a sweep, when something is due": (charge(5), lambda billing: billing.sweep()),
    "a freeze twice": (freeze, freeze),
    "a freeze and an unfreeze": (freeze, unfreeze),
    "a freeze and a charge": (freeze, charge(5)),
    "a freeze and a hold": (freeze, hold(5)),
    "a freeze and a capture": (freeze, capture(20)),
    "a freeze and an overrun": (freeze, capture(6_000_000, overrun=Overrun.AVAILABLE)),
    "a freeze and an extension of a hold": (freeze, extend_hold),
    "an adjustment twice": (adjust(-6_000_000), adjust(-6_000_000)),
    "two adjustments": (adjust(-6_000_000), adjust(-6_000_000, "fix-2")),
    "an adjustment and a charge and enough for one": (adjust(-6_000_000), charge(6_000_000)),
    "an adjustment and a capture": (adjust(-9_999_990), capture(20)),
    "an adjustment and a void": (adjust(-9_999_990), void()),
    "folding and a purchase": (lambda billing: billing.fold(), buy("stripe:1")),
}
# In this ledger both tenants have intents, and no purchase.
PAIRS_OF_ATTEMPTS: dict[str, tuple[Call, Call]] = {
    "evidence twice": (submit(), submit()),
    "a report twice": (report("stripe:1"), report("stripe:1")),
    "reports of two payments": (report("stripe:1"), report("stripe:2")),
    "two tenants with one piece of evidence": (submit(), submit(BOB)),
    "evidence, and another tenant who buys with it": (submit(), buy("stripe:1", tenant=BOB)),
}
# In this ledger Alice has also been charged 40 credits, 20 of them of her grant.
PAIRS_OF_REVERSALS: dict[str, tuple[Call, Call]] = {
    "a reversal twice": (give_back(30), give_back(30)),
    "two reversals and enough for one": (give_back(30), give_back(30, "back-2")),
    "two reversals of parts": (give_back(30), give_back(10, "back-2")),
    "a reversal and a charge": (give_back(30), charge(15)),
    "a reversal and a hold of what it gives back": (give_back(30), hold(9_499_980)),
    "a reversal and a void of its grant": (give_back(30), void()),
    "a reversal and an adjustment": (give_back(30), adjust(-6_000_000)),
    "a reversal and a freeze": (give_back(30), freeze),
    "a reversal twice, when its grant is due": (give_back(30), give_back(30)),
}
EACH = PAIRS | PAIRS_OF_ATTEMPTS | PAIRS_OF_REVERSALS
# These never wait for each other: they are of different tenants, or record no transaction.
APART = {
    "two tenants who buy",
    "a first purchase and a charge",
    "a first purchase and a hold",
    "a refused charge twice, when something is due",
    "a freeze and an unfreeze",
}
# By then the grant has expired, and the first call posts that.
LATER = {
    "a payment twice, when something is due",
    "a charge twice, when something is due",
    "a hold twice, when something is due",
    "a refused charge twice, when something is due",
    "a charge and a sweep, when something is due",
    "a reversal twice, when its grant is due",
}
POLICY = policy()  # a tenth of each purchase for Bob, a quarter for the system tenant


def ready(database: Database, pair: str) -> MovableClock:
    """Create the ledger of *pair*. Returns its clock."""
    reset(database.migrator)
    clock = MovableClock()
    unit_of_work = PostgresUnitOfWork(database.user, service=database.service)
    billing = Billing(unit_of_work, policy=POLICY, clock=clock, ids=CountingIds())
    if pair in PAIRS_OF_ATTEMPTS:
        intend(billing)
    else:
        sell(billing)
    if pair in PAIRS_OF_REVERSALS:
        billing.charge(ALICE, credits(40), reference="used")
    if pair in LATER:
        clock.move(2 * HOUR)
    return clock


def sell(billing: Billing) -> None:
    billing.confirm_purchase(ALICE, usd("1.00"), payment=PAYMENT)
    billing.confirm_purchase(BOB, usd("1.00"), payment="stripe:bob")
    expires = NOON + HOUR
    billing.grant(ALICE, credits(50), source="promo:a", reference="a", expires_at=expires)
    assert billing.grants(ALICE)[0].id == GRANTED
    assert billing.hold(ALICE, credits(30), reference="ready").id == HELD
    billing.open_dispute(ALICE, payment=PAYMENT, amount=usd("0.05"), reference="dp_1")
    billing.refund(ALICE, payment=PAYMENT, amount=usd("0.02"), reference="re_0")


def intend(billing: Billing) -> None:
    for tenant, intent in INTENTS.items():
        billing.open_account(tenant)
        attempts = attempts_over(billing, ids=CountingIds(intent.int - 1))
        assert attempts.create_intent(tenant, usd("2.00")).attempt_id == intent


def told(outcome: Told) -> object:
    """Return an answer without its ids."""
    code, value = outcome
    if isinstance(value, (Receipt, Hold, Dispute, Attempt)):
        fields = asdict(value, recurse=False)
        return code, {name: each for name, each in fields.items() if name not in IDS}
    return code, value


def state(database: Database) -> object:
    """Verify the ledger, and return its content."""
    unit_of_work = PostgresUnitOfWork(database.user, service=database.service)
    billing = Billing(unit_of_work, policy=POLICY, clock=MovableClock())
    verification = billing.verify()
    assert verification.ok, verification
    balances = [billing.balance(tenant) for tenant in (ALICE, BOB, SYSTEM_TENANT_ID)]
    grants = [evolve(grant, id=HELD) for grant in billing.grants(ALICE)]
    return balances, grants, verification.transactions


@pytest.fixture
def stage(database: Database) -> Iterator[Stage]:
    with staged(database) as stage:
        yield stage


@pytest.mark.exhaustive
@pytest.mark.parametrize("pair", EACH)
def test_interleaved_calls_equal_a_serial_order(
    database: Database, stage: Stage, pair: str
) -> None:
    calls = EACH[pair]

    def played(turns: list[tuple[int, int]]) -> object:
        clock = ready(database, pair)
        outcomes = stage.play(calls, turns, policy=POLICY, clock=clock)
        return [told(outcome) for outcome in outcomes], state(database)

    statements = (0, 0)
    one_after_another = []
    for first in (0, 1):
        one_after_another.append(played([(first, TO_THE_END), (1 - first, TO_THE_END)]))
        here = [session.statements for session in stage.sessions]
        statements = (max(statements[0], here[0]), max(statements[1], here[1]))

    for turns in schedules(statements):
        assert played(turns) in one_after_another, turns
    assert (stage.waits == 0) == (pair in APART)
