"""The exact message of each refused argument."""

# mypy: disable-error-code="arg-type, call-overload, operator, type-var, list-item"
# (these tests pass arguments of the wrong type)

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import (
    CREDIT,
    SYSTEM_ACCOUNT_ID,
    USD,
    AccountId,
    Amount,
    BillingError,
    Dispute,
    GrantSchedule,
    InsufficientCredits,
    Overrun,
    RevenueSharePolicies,
    RevenueSharePolicy,
    Rollover,
    ShareMode,
    ShareRule,
    ShareTier,
    Shortfall,
    TransactionKind,
    allocate,
    charge_for,
    credits,
    credits_for,
    margin_preserved,
    usd,
    usd_cents,
)
from cogni_billing.domain.amounts import parsed, positive
from cogni_billing.domain.batches import batch_of, checked_request
from cogni_billing.domain.charges import Charge, plan_charge
from cogni_billing.domain.disputes import DisputeState, known_dispute
from cogni_billing.domain.grants import GrantRequest, plan_grant
from cogni_billing.domain.hold_changes import CaptureRequest, Extension, Release
from cogni_billing.domain.holds import Hold, HoldState, hold_page_request
from cogni_billing.domain.identity import reference, tenant_id
from cogni_billing.domain.metadata import frozen_metadata
from cogni_billing.domain.payments import Payment
from cogni_billing.domain.policies import checked_policies
from cogni_billing.domain.reversals import ReversalRequest, known_refund
from cogni_billing.domain.schedules import ScheduleRequest, checked_schedule_id
from cogni_billing.domain.statements import kind_of, page_request
from cogni_billing.domain.timestamps import Expiry, require_unexpired, utc
from cogni_billing.testing.base import ALICE, NOON
from cogni_billing.testing.contracts.purchases import planned

ONE = UUID(int=1)
HUGE = Amount(10**27, CREDIT)
MOST = Amount.computed(Decimal("9" * 100), CREDIT)
DEFAULT = RevenueSharePolicy.default()
PAYMENT = Payment(purchase=planned(amount="1.00"), returned=usd("0.10"), refunded=usd("0.10"))
DISPUTE = Dispute(
    id=ONE,
    tenant=ALICE,
    payment="a:p",
    reference="d",
    amount=usd(1),
    set_aside=credits(5),
    shares=(),
    opened_at=NOON,
    purchase=ONE,
)
HOLD = Hold(id=ONE, tenant=ALICE, reference="h", amount=credits(5), opened_at=NOON)


def charge(**given: Any) -> object:
    asked: dict[str, Any] = {
        "tenant": ALICE,
        "amount": credits(1),
        "reference": "r",
        "allow_overdraft": False,
        "metadata": None,
    }
    return plan_charge(Charge(**asked | given), at=NOON, transaction_id=ONE)


def grant(**given: Any) -> object:
    asked: dict[str, Any] = {
        "tenant": ALICE,
        "amount": credits(1),
        "source": "s",
        "reference": "r",
        "expiry": Expiry.given(given.pop("expires_at", None), None),
        "priority": 0,
        "metadata": None,
    }
    return GrantRequest(**asked | given)


def scheduled(**given: Any) -> object:
    asked: dict[str, Any] = {"source": "s", "amount": credits(1), "every": "month"}
    return GrantSchedule(**asked | given)


def scheduling(**given: Any) -> object:
    asked: dict[str, Any] = {
        "tenant": ALICE,
        "schedule": scheduled(),
        "reference": "r",
        "replaces": None,
        "metadata": None,
    }
    return ScheduleRequest(**asked | given)


def capturing(**given: Any) -> object:
    asked: dict[str, Any] = {
        "tenant": ALICE,
        "hold_id": HOLD.id,
        "amount": credits(1),
        "reference": "r",
        "final": True,
        "overrun": Overrun.REFUSE,
        "metadata": None,
    }
    return CaptureRequest(**asked | given)


def extending(amount: Amount | None, expires_in: timedelta | None = None) -> object:
    expiry = Expiry(expires_in=expires_in)
    return Extension(
        tenant=ALICE,
        hold_id=HOLD.id,
        amount=amount,
        expiry=expiry,
        reference="r",
        at=NOON,
        id=ONE,
    )


def raised(error: BillingError) -> None:
    raise error


def refund(**given: Any) -> object:
    asked: dict[str, Any] = {
        "tenant": ALICE,
        "payment": "a:p",
        "reference": "r",
        "shortfall": Shortfall.DEBT,
        "metadata": None,
    }
    return ReversalRequest(**asked | given)


def rule(rate: object = Decimal(1), beneficiary: object = SYSTEM_ACCOUNT_ID, **given: Any) -> Any:
    return ShareRule(beneficiary, rate, **given)


def policy(**given: Any) -> RevenueSharePolicy:
    asked: dict[str, Any] = {
        "version": "v",
        "effective_from": NOON,
        "mode": ShareMode.BONUS,
        "rules": (),
    }
    return RevenueSharePolicy(**asked | given)


def written(**given: Any) -> object:
    return RevenueSharePolicy.from_dict({**DEFAULT.to_dict(), **given})


def written_rule(**given: Any) -> object:
    return ShareRule.from_dict({"beneficiary": str(ONE), "rate": "1", **given})


def deep(levels: int) -> object:
    nested: object = 1
    for _ in range(levels):
        nested = {"a": nested}
    return nested


REFUSALS: list[tuple[Callable[[], object], str]] = [
    (
        lambda: usd(0.5),
        "invalid_amount: amount: expected an exact Decimal, int or plain decimal text of at most 10^27, got 0.5",
    ),
    (
        lambda: usd("1E2"),
        "invalid_amount: amount: expected an exact Decimal, int or plain decimal text of at most 10^27, got '1E2'",
    ),
    (
        lambda: usd(Decimal("1E+1000000")),
        "invalid_amount: amount: expected an exact Decimal, int or plain decimal text of at most 10^27, got Decimal('1E+1000000')",
    ),
    (
        lambda: usd(10**27 + 1),
        "invalid_amount: amount: expected a magnitude of at most 10^27, got Decimal('1000000000000000000000000001')",
    ),
    (
        lambda: usd("0.001"),
        "invalid_amount: amount: expected at most 2 decimals for USD, got Decimal('0.001')",
    ),
    (
        lambda: credits("1.5"),
        "invalid_amount: amount: expected at most 0 decimals for CREDIT, got Decimal('1.5')",
    ),
    (
        lambda: Amount(-(10**27) - 1, USD),
        "invalid_amount: amount: expected a magnitude of at most 10^27, got Decimal('-1000000000000000000000000001')",
    ),
    (
        lambda: Amount(1, "USD"),
        "unit_mismatch: unit: expected a Unit, such as CREDIT or USD, got 'USD'",
    ),
    (lambda: usd(1) + credits(1), "unit_mismatch: unit: expected USD, got CREDIT"),
    (lambda: usd(1) < credits(1), "unit_mismatch: unit: expected USD, got CREDIT"),
    (
        lambda: MOST + MOST,
        "invalid_amount: amount: expected a result of at most 100 digits, got Decimal('9999999999999999999999999999999999999999999999999999...",
    ),
    (
        lambda: Amount.computed(Decimal("9" * 101), CREDIT),
        "invalid_amount: amount: expected a result of at most 100 digits, got Decimal('9999999999999999999999999999999999999999999999999999...",
    ),
    (
        lambda: usd_cents(1.0),
        "invalid_amount: usd_cents: expected a whole number of cents as an int, got 1.0",
    ),
    (
        lambda: usd_cents(True),
        "invalid_amount: usd_cents: expected a whole number of cents as an int, got True",
    ),
    (
        lambda: parsed("1 2 USD"),
        "invalid_amount: amount: expected an amount and its unit, got '1 2 USD'",
    ),
    (
        lambda: parsed("1 EURO"),
        "invalid_amount: amount: expected an amount and its unit, got '1 EURO'",
    ),
    (
        lambda: parsed("x USD"),
        "invalid_amount: amount: expected an exact Decimal, int or plain decimal text of at most 10^27, got 'x'",
    ),
    (
        lambda: positive(Decimal(1), "amount"),
        "invalid_amount: amount: expected an Amount greater than zero, got Decimal('1')",
    ),
    (
        lambda: positive(usd(0), "paid"),
        "invalid_amount: paid: expected an Amount greater than zero, got 0.00 USD",
    ),
    (
        lambda: positive(usd(-1), "paid"),
        "invalid_amount: paid: expected an Amount greater than zero, got -1.00 USD",
    ),
    (
        lambda: positive(HUGE + HUGE, "paid"),
        "invalid_amount: paid: expected a magnitude of at most 10^27, got Decimal('2000000000000000000000000000')",
    ),
    (
        lambda: credits_for(usd(0)),
        "invalid_amount: paid: expected an Amount greater than zero, got 0.00 USD",
    ),
    (
        lambda: credits_for(credits(1)),
        "unit_mismatch: paid: expected USD, USDC or a currency with a price, got CREDIT",
    ),
    (
        lambda: charge_for(usd(-1), Decimal(1)),
        "invalid_amount: cost: expected from 0 to 10^27, got Decimal('-1.00')",
    ),
    (
        lambda: charge_for(Decimal(-1), Decimal(1)),
        "invalid_amount: cost: expected from 0 to 10^27, got Decimal('-1')",
    ),
    (
        lambda: charge_for(Amount(10**27, USD) + usd(1), Decimal(1)),
        "invalid_amount: cost: expected from 0 to 10^27, got Decimal('1000000000000000000000000001.00')",
    ),
    (
        lambda: charge_for(Decimal("1E-25"), Decimal(1)),
        "invalid_amount: cost: expected an Amount or exact Decimal with at most 24 decimals, got Decimal('1E-25')",
    ),
    (
        lambda: charge_for("1", Decimal(1)),
        "invalid_amount: cost: expected an Amount or exact Decimal with at most 24 decimals, got '1'",
    ),
    (
        lambda: charge_for(credits(1), Decimal(1)),
        "unit_mismatch: cost: expected USD or USDC, got CREDIT",
    ),
    (
        lambda: charge_for(usd(1), "1"),
        "invalid_amount: markup: expected an exact Decimal from 0 to 1000000 with at most 12 decimals, got '1'",
    ),
    (
        lambda: charge_for(usd(1), Decimal(-1)),
        "invalid_amount: markup: expected an exact Decimal from 0 to 1000000 with at most 12 decimals, got Decimal('-1')",
    ),
    (
        lambda: charge_for(usd(1), Decimal(1_000_001)),
        "invalid_amount: markup: expected an exact Decimal from 0 to 1000000 with at most 12 decimals, got Decimal('1000001')",
    ),
    (
        lambda: charge_for(usd(1), Decimal("1E-13")),
        "invalid_amount: markup: expected an exact Decimal from 0 to 1000000 with at most 12 decimals, got Decimal('1E-13')",
    ),
    (
        lambda: margin_preserved(Decimal(1), Decimal(0), Decimal(2)),
        "invalid_amount: fee: expected an exact Decimal from 0 to 1 with at most 12 decimals, got Decimal('2')",
    ),
    (
        lambda: margin_preserved(Decimal(1), Decimal(1_000_001), Decimal(1)),
        "invalid_amount: share: expected an exact Decimal from 0 to 1000000 with at most 12 decimals, got Decimal('1000001')",
    ),
    (
        lambda: allocate(usd(-1), [1]),
        "invalid_amount: total: expected an Amount of at least zero, got -1.00 USD",
    ),
    (lambda: allocate(5, [1]), "invalid_amount: total: expected an Amount of at least zero, got 5"),
    (
        lambda: allocate(usd(1), 5),
        "invalid_amount: weights: expected a sequence of exact numbers, got 5",
    ),
    (
        lambda: allocate(usd(1), []),
        "invalid_amount: weights: expected at least one above zero, got 0 weights of zero",
    ),
    (
        lambda: allocate(usd(1), [0, Decimal(0)]),
        "invalid_amount: weights: expected at least one above zero, got 2 weights of zero",
    ),
    (
        lambda: allocate(usd(1), [1, -1]),
        "invalid_amount: weights[1]: expected an exact number from 0 to 10^27 with at most 12 decimals, got -1",
    ),
    (
        lambda: allocate(usd(1), ["1"]),
        "invalid_amount: weights[0]: expected an exact number from 0 to 10^27 with at most 12 decimals, got '1'",
    ),
    (
        lambda: allocate(usd(1), [10**27 + 1]),
        "invalid_amount: weights[0]: expected an exact number from 0 to 10^27 with at most 12 decimals, got 1000000000000000000000000001",
    ),
    (
        lambda: allocate(usd(1), [Decimal("1E-13")]),
        "invalid_amount: weights[0]: expected an exact number from 0 to 10^27 with at most 12 decimals, got Decimal('1E-13')",
    ),
    (
        lambda: tenant_id("alice"),
        "invalid_tenant: tenant: expected a uuid.UUID that is neither nil nor reserved, got 'alice'",
    ),
    (
        lambda: tenant_id(UUID(int=0)),
        "invalid_tenant: tenant: expected a uuid.UUID that is neither nil nor reserved, got UUID('00000000-0000-0000-0000-000000000000')",
    ),
    (
        lambda: tenant_id(SYSTEM_ACCOUNT_ID),
        "invalid_tenant: tenant: expected a uuid.UUID that is neither nil nor reserved, got UUID('00000000-0000-4000-b000-000000000000')",
    ),
    (
        lambda: reference(""),
        "invalid_reference: reference: expected 1 to 255 visible ASCII characters (0x21-0x7E), got ''",
    ),
    (
        lambda: reference("a b", "payment"),
        "invalid_reference: payment: expected 1 to 255 visible ASCII characters (0x21-0x7E), got 'a b'",
    ),
    (
        lambda: reference("x" * 256),
        "invalid_reference: reference: expected 1 to 255 visible ASCII characters (0x21-0x7E), got 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...",
    ),
    (lambda: utc(None, "at"), "invalid_time: at: expected a timezone-aware datetime, got None"),
    (
        lambda: utc(datetime(2026, 1, 1), "at"),
        "invalid_time: at: expected a timezone-aware datetime, got '2026-01-01 00:00:00'",
    ),
    (
        lambda: utc(datetime(1969, 12, 31, tzinfo=UTC), "at"),
        "invalid_time: at: expected a moment in the years 1970 to 9998, got '1969-12-31 00:00:00+00:00'",
    ),
    (
        lambda: utc(datetime(9999, 1, 1, tzinfo=UTC), "at"),
        "invalid_time: at: expected a moment in the years 1970 to 9998, got '9999-01-01 00:00:00+00:00'",
    ),
    (
        lambda: require_unexpired(NOON, NOON),
        "invalid_time: expires_at: expected a moment after 2026-11-23 12:00:00.123456+00:00, got 2026-11-23 12:00:00.123456+00:00",
    ),
    (
        lambda: frozen_metadata([1]),
        "invalid_metadata: metadata: expected a JSON object (dict), got a list",
    ),
    (
        lambda: frozen_metadata({"a": float("nan")}),
        "invalid_metadata: metadata.a: expected JSON: str without NUL, int, finite float, bool, None, got nan",
    ),
    (
        lambda: frozen_metadata({"a": ["\0"]}),
        "invalid_metadata: metadata.a: expected JSON: str without NUL, int, finite float, bool, None, got '\\x00'",
    ),
    (
        lambda: frozen_metadata({"a": "\ud800"}),
        "invalid_metadata: metadata.a: expected text without lone surrogates, got '\\ud800'",
    ),
    (
        lambda: frozen_metadata({1: 2}),
        "invalid_metadata: metadata: expected JSON: str without NUL, int, finite float, bool, None, got 1",
    ),
    (
        lambda: frozen_metadata({"k" * 40: {"l": set()}}),
        "invalid_metadata: metadata.kkkkkkkkkkkkkkkkkkkkkkk: expected JSON: str without NUL, int, finite float, bool, None, got a set",
    ),
    (
        lambda: frozen_metadata(deep(9)),
        "invalid_metadata: metadata.a.a.a.a.a.a.a.a: expected at most 8 levels, got one more level",
    ),
    (
        lambda: frozen_metadata({"a": "x" * 16_384}),
        "invalid_metadata: metadata: expected at most 16384 bytes encoded, got more",
    ),
    (
        lambda: frozen_metadata({"a": "\u20ac" * 6_000}),
        "invalid_metadata: metadata: expected at most 16384 bytes encoded, got 18008 bytes",
    ),
    (
        lambda: frozen_metadata({"a": 2**2100}),
        "invalid_metadata: metadata.a: expected JSON: str without NUL, int, finite float, bool, None, got an int of 2101 bits",
    ),
    (
        lambda: charge(allow_overdraft=1),
        "invalid_input: allow_overdraft: expected True or False, got 1",
    ),
    (lambda: charge(amount=usd(1)), "unit_mismatch: amount: expected CREDIT, got USD"),
    (
        lambda: charge(amount=credits(-1)),
        "invalid_amount: amount: expected an Amount of at least zero, got -1 CREDIT",
    ),
    (
        lambda: charge(allow_overdraft=True, at_most=True),
        "invalid_input: at_most: expected False in a call with allow_overdraft, got True",
    ),
    (
        lambda: grant(priority=-1),
        "invalid_input: priority: expected a whole number from 0 to 1000000, got -1",
    ),
    (
        lambda: grant(priority=1_000_001),
        "invalid_input: priority: expected a whole number from 0 to 1000000, got 1000001",
    ),
    (
        lambda: grant(priority=True),
        "invalid_input: priority: expected a whole number from 0 to 1000000, got True",
    ),
    (
        lambda: grant(source=""),
        "invalid_reference: source: expected 1 to 255 visible ASCII characters (0x21-0x7E), got ''",
    ),
    (
        lambda: grant(effective_from=datetime(2026, 1, 1)),
        "invalid_time: effective_from: expected a timezone-aware datetime, got '2026-01-01 00:00:00'",
    ),
    (
        lambda: plan_grant(
            grant(effective_from=NOON, expires_at=NOON), at=NOON, transaction_id=ONE
        ),
        "invalid_time: expires_at: expected a moment after 2026-11-23 12:00:00.123456+00:00, got 2026-11-23 12:00:00.123456+00:00",
    ),
    (
        lambda: Rollover(credits(0)),
        "invalid_amount: cap: expected an Amount greater than zero, got 0 CREDIT",
    ),
    (lambda: Rollover(usd(1)), "unit_mismatch: cap: expected CREDIT, got USD"),
    (
        lambda: Rollover(credits(1), 0),
        "invalid_input: periods: expected a whole number from 1 to 1000, got 0",
    ),
    (
        lambda: Rollover(credits(1), 1001),
        "invalid_input: periods: expected a whole number from 1 to 1000, got 1001",
    ),
    (
        lambda: Rollover(credits(1), True),
        "invalid_input: periods: expected a whole number from 1 to 1000, got True",
    ),
    (
        lambda: scheduled(source=""),
        "invalid_reference: source: expected 1 to 255 visible ASCII characters (0x21-0x7E), got ''",
    ),
    (
        lambda: scheduled(amount=credits(0)),
        "invalid_amount: amount: expected an Amount greater than zero, got 0 CREDIT",
    ),
    (lambda: scheduled(amount=usd(1)), "unit_mismatch: amount: expected CREDIT, got USD"),
    (
        lambda: scheduled(every="hour"),
        "invalid_input: every: expected day, week, month or year, got 'hour'",
    ),
    (
        lambda: scheduled(every=["day"]),
        "invalid_input: every: expected day, week, month or year, got a list",
    ),
    (
        lambda: scheduled(anchor=datetime(2026, 1, 1)),
        "invalid_time: anchor: expected a timezone-aware datetime, got '2026-01-01 00:00:00'",
    ),
    (
        lambda: scheduled(until="2026"),
        "invalid_time: until: expected a timezone-aware datetime, got '2026'",
    ),
    (
        lambda: scheduled(anchor=NOON, until=NOON),
        "invalid_time: until: expected a moment after the anchor, 2026-11-23 12:00:00.123456+00:00, got 2026-11-23 12:00:00.123456+00:00",
    ),
    *(
        (
            lambda zone=zone: scheduled(zone=zone),
            f"invalid_input: zone: expected the IANA name of a time zone, such as Europe/Berlin, got {zone!r}",
        )
        for zone in (
            *("Mars/Olympus", "", "America", "Europe/Berlin\n", "../UTC", "/etc/passwd", None, 5),
            *("right/UTC", "posix/UTC", "Europe/Berlin "),
        )
    ),
    (
        lambda: scheduled(priority=-1),
        "invalid_input: priority: expected a whole number from 0 to 1000000, got -1",
    ),
    (
        lambda: scheduled(rollover=credits(5)),
        "invalid_input: rollover: expected a Rollover, or None, got a Amount",
    ),
    (
        lambda: scheduling(schedule={"every": "day"}),
        "invalid_input: schedule: expected a GrantSchedule, got a dict",
    ),
    (
        lambda: scheduling(schedule=scheduled(every="once")),
        "invalid_input: schedule.every: expected day, week, month or year, got 'once'",
    ),
    (
        lambda: scheduling(replaces="s"),
        "invalid_input: replaces: expected the id of a schedule, a uuid.UUID, got 's'",
    ),
    (
        lambda: checked_schedule_id(7),
        "invalid_input: schedule_id: expected the id of a schedule, a uuid.UUID, got 7",
    ),
    (
        lambda: grant(expires_at=datetime(2026, 1, 1)),
        "invalid_time: expires_at: expected a timezone-aware datetime, got '2026-01-01 00:00:00'",
    ),
    (
        lambda: refund(shortfall="debt"),
        "invalid_input: shortfall: expected a Shortfall, got 'debt'",
    ),
    (
        lambda: capturing(hold_id="h"),
        "invalid_input: hold_id: expected the id of a hold, a uuid.UUID, got 'h'",
    ),
    (
        lambda: capturing(amount=credits(-1)),
        "invalid_amount: amount: expected an Amount of at least zero, got -1 CREDIT",
    ),
    (
        lambda: capturing(amount=usd("0.00")),
        "unit_mismatch: amount: expected CREDIT, got USD",
    ),
    (
        lambda: capturing(final=1),
        "invalid_input: final: expected True or False, got 1",
    ),
    (
        lambda: capturing(overrun="debt"),
        "invalid_input: overrun: expected a value of Overrun, got 'debt'",
    ),
    (
        lambda: raised(InsufficientCredits(credits(6), credits(1), credits(5))),
        "insufficient_credits: 6 CREDIT required, 5 CREDIT held, 1 CREDIT available beside it",
    ),
    (
        lambda: extending(None),
        "invalid_input: amount: expected an amount, expires_at or expires_in, got None",
    ),
    (
        lambda: extending(credits(0)),
        "invalid_amount: amount: expected an Amount greater than zero, got 0 CREDIT",
    ),
    (
        lambda: extending(None, expires_in=timedelta.max),
        "invalid_time: expires_in: expected a lifetime that ends by the year 9998, got"
        " 999999999 days, 23:59:59.999999",
    ),
    (
        lambda: Release(
            tenant=ALICE, hold_id=HOLD.id, amount=credits(1), reference=None, at=NOON, id=ONE
        ),
        "invalid_reference: reference: expected 1 to 255 visible ASCII characters (0x21-0x7E),"
        " got None",
    ),
    (
        lambda: hold_page_request(50, "9" * 18 + "-" + "0" * 32),
        f"invalid_page: after: expected the `next` of an earlier page, got '{'9' * 18}-{'0' * 32}'",
    ),
    (
        lambda: HOLD.ended(HoldState.RELEASED, NOON).require_open(),
        "hold_closed: hold 00000000-0000-0000-0000-000000000001 is released",
    ),
    (
        lambda: evolve(HOLD, expires_at=NOON).at(NOON).require_open(),
        "hold_closed: hold 00000000-0000-0000-0000-000000000001 is expired",
    ),
    (
        lambda: known_dispute(None, "d", "p"),
        "unknown_dispute: no dispute 'd' of 'p'; open it first",
    ),
    (
        lambda: known_dispute(DISPUTE, "d", "q"),
        "unknown_dispute: no dispute 'd' of 'q'; open it first",
    ),
    (
        lambda: known_refund(None, "r", "p"),
        "unknown_refund: no refund 'r' of 'p'; record it first",
    ),
    (lambda: PAYMENT.part(credits(1), None), "unit_mismatch: amount: expected USD, got CREDIT"),
    (lambda: PAYMENT.part(None, credits(1)), "unit_mismatch: total: expected USD, got CREDIT"),
    (
        lambda: PAYMENT.part(None, usd("1.01")),
        "refund_exceeds_payment: 1.01 USD requested, 0.90 USD can still be refunded",
    ),
    (
        lambda: evolve(
            PAYMENT, disputes=(evolve(DISPUTE, state=DisputeState.LOST),), returned=usd("1.00")
        ).part(usd("0.50"), None),
        "refund_exceeds_payment: 0.50 USD requested, 0.00 USD can still be refunded; dispute 'd'"
        " is lost",
    ),
    (
        lambda: PAYMENT.part(usd("0.91"), None),
        "refund_exceeds_payment: 0.91 USD requested, 0.90 USD can still be refunded",
    ),
    (
        lambda: evolve(PAYMENT, returned=usd("1.00")).part(None, None),
        "refund_exceeds_payment: 1.00 USD requested, 0.00 USD can still be refunded",
    ),
    (
        lambda: batch_of("abc", Charge, "charges"),
        "invalid_input: charges: expected an iterable of Charge, got 'abc'",
    ),
    (
        lambda: batch_of(1, Charge, "charges"),
        "invalid_input: charges: expected an iterable of Charge, got 1",
    ),
    (
        lambda: checked_request({"amount": 1}, Charge),
        "invalid_input: charge: expected a Charge, or a mapping with its arguments, got a dict",
    ),
    (
        lambda: kind_of("gift"),
        f"invalid_input: kind: expected {' or '.join(TransactionKind)}, got 'gift'",
    ),
    (
        lambda: kind_of(None),
        f"invalid_input: kind: expected {' or '.join(TransactionKind)}, got None",
    ),
    (
        lambda: page_request(0, None),
        "invalid_page: limit: expected a whole number from 1 to 1000, got 0",
    ),
    (
        lambda: page_request(1001, None),
        "invalid_page: limit: expected a whole number from 1 to 1000, got 1001",
    ),
    (
        lambda: page_request(True, None),
        "invalid_page: limit: expected a whole number from 1 to 1000, got True",
    ),
    (
        lambda: page_request(1, "0"),
        "invalid_page: after: expected the `next` of an earlier page, got '0'",
    ),
    (
        lambda: page_request(1, "9" * 40),
        "invalid_page: after: expected the `next` of an earlier page, got '9999999999999999999999999999999999999999'",
    ),
    (
        lambda: page_request(1, 5),
        "invalid_page: after: expected the `next` of an earlier page, got 5",
    ),
    (
        lambda: page_request(1, None, since="now"),
        "invalid_time: since: expected a timezone-aware datetime, got 'now'",
    ),
    (
        lambda: page_request(1, None, until=datetime(2026, 1, 1)),
        "invalid_time: until: expected a timezone-aware datetime, got '2026-01-01 00:00:00'",
    ),
    (
        lambda: rule("0.1234567890123"),
        "invalid_policy: rate: expected an exact Decimal from 0 to 10 with at most 12 decimals, got '0.1234567890123'",
    ),
    (
        lambda: rule(11),
        "invalid_policy: rate: expected an exact Decimal from 0 to 10 with at most 12 decimals, got 11",
    ),
    (
        lambda: rule(-1),
        "invalid_policy: rate: expected an exact Decimal from 0 to 10 with at most 12 decimals, got -1",
    ),
    (
        lambda: rule(beneficiary="me"),
        "invalid_policy: beneficiary: expected the account of a tenant, or 00000000-0000-4000-b000-000000000000, got 'me'",
    ),
    (
        lambda: rule(beneficiary=UUID(int=0)),
        "invalid_policy: beneficiary: expected the account of a tenant, or 00000000-0000-4000-b000-000000000000, got UUID('00000000-0000-0000-0000-000000000000')",
    ),
    (lambda: rule(cap=5), "invalid_policy: cap: expected an Amount in CREDIT, got 5"),
    (lambda: rule(cap=usd(5)), "invalid_policy: cap: expected an Amount in CREDIT, got 5.00 USD"),
    (
        lambda: rule(minimum=credits(-1)),
        "invalid_policy: minimum: expected an Amount from 0 to 10^27 CREDIT, got -1 CREDIT",
    ),
    (
        lambda: rule(cap=HUGE + HUGE),
        "invalid_policy: cap: expected an Amount from 0 to 10^27 CREDIT, got 2000000000000000000000000000 CREDIT",
    ),
    (
        lambda: rule(cap=MOST),
        "invalid_policy: cap: expected an Amount from 0 to 10^27 CREDIT, got 9999999999999999999999999999999999999999999999999999999999999999",
    ),
    (
        lambda: rule(cap=credits(1), minimum=credits(2)),
        "invalid_policy: minimum: expected at most the cap, 1 CREDIT, got 2 CREDIT",
    ),
    (
        lambda: rule(tiers=None),
        "invalid_policy: tiers: expected at most 16 ShareTier with ascending at_least above zero, got None",
    ),
    (
        lambda: rule(tiers=[1]),
        "invalid_policy: tiers: expected at most 16 ShareTier with ascending at_least above zero, got a list",
    ),
    (
        lambda: rule(tiers=[(credits(1), "1")] * 17),
        "invalid_policy: tiers: expected at most 16 ShareTier with ascending at_least above zero, got a list",
    ),
    (
        lambda: rule(tiers=[(credits(2), "1"), (credits(2), "1")]),
        "invalid_policy: tiers: expected at most 16 ShareTier with ascending at_least above zero, got 2 CREDIT, 2 CREDIT",
    ),
    (
        lambda: rule(tiers=[(credits(0), "1")]),
        "invalid_policy: tiers: expected at most 16 ShareTier with ascending at_least above zero, got 0 CREDIT",
    ),
    (
        lambda: rule(tiers=[(HUGE, "1"), (HUGE, "1"), (HUGE, "1")]),
        "invalid_policy: tiers: expected at most 16 ShareTier with ascending at_least above zero, got 1000000000000000000000000000 CREDIT, 100000000000000000000000000",
    ),
    (
        lambda: ShareTier(usd(1), Decimal(1)),
        "invalid_policy: at_least: expected an Amount in CREDIT, got 1.00 USD",
    ),
    (
        lambda: policy(version=""),
        "invalid_policy: version: expected 1 to 255 visible ASCII characters (0x21-0x7E), got ''",
    ),
    (
        lambda: policy(effective_from=datetime(2026, 1, 1)),
        "invalid_policy: effective_from: expected a timezone-aware datetime, got '2026-01-01 00:00:00'",
    ),
    (lambda: policy(mode="bonus"), "invalid_policy: mode: expected a ShareMode, got 'bonus'"),
    (
        lambda: policy(clawback=None),
        "invalid_policy: clawback: expected Shortfall.DEBT or Shortfall.CLAMP, got None",
    ),
    (lambda: policy(rules=5), "invalid_policy: rules: expected a tuple of ShareRule, got 5"),
    (lambda: policy(rules=[5]), "invalid_policy: rules: expected a tuple of ShareRule, got a list"),
    (
        lambda: policy(rules=[rule(beneficiary=AccountId(UUID(int=n))) for n in range(1, 34)]),
        "invalid_policy: rules: expected at most 32, got 33 rules",
    ),
    (
        lambda: policy(rules=[rule(), rule()]),
        "invalid_policy: rules: expected one rule for each beneficiary, got a beneficiary twice",
    ),
    (
        lambda: policy(rules=[rule("1.5")], mode=ShareMode.SPLIT),
        "invalid_policy: rules: expected rates with a sum of at most 1, got rates that sum to 1.5 from 0 CREDIT",
    ),
    (
        lambda: policy(rules=[rule("0", tiers=[(HUGE, "1.123456789012")])], mode=ShareMode.SPLIT),
        "invalid_policy: rules: expected rates with a sum of at most 1, got rates that sum to 1.123456789012 from 10000000000000000000000000",
    ),
    (
        lambda: policy().at(NOON - timedelta(seconds=1)),
        "invalid_policy: policy: expected one in force at 2026-11-23 11:59:59.123456+00:00, got one in force from 2026-11-23 12:00:00.123456+00:00",
    ),
    (
        lambda: policy().shares_of(credits(1), NOON - timedelta(seconds=1)),
        "invalid_policy: policy: expected one in force at 2026-11-23 11:59:59.123456+00:00, got one in force from 2026-11-23 12:00:00.123456+00:00",
    ),
    (
        lambda: policy().shares_of(credits(-1), NOON),
        "invalid_amount: purchased: expected an Amount of at least zero, got -1 CREDIT",
    ),
    (
        lambda: policy().shares_of(usd(1), NOON),
        "unit_mismatch: purchased: expected CREDIT, got USD",
    ),
    (
        lambda: policy().shares_of(credits(1), NOON.replace(tzinfo=None)),
        "invalid_time: at: expected a timezone-aware datetime, got '2026-11-23 12:00:00.123456'",
    ),
    (
        lambda: checked_policies("default"),
        "invalid_policy: policy: expected a RevenueSharePolicy or RevenueSharePolicies, got 'default'",
    ),
    (
        lambda: RevenueSharePolicies([]),
        "invalid_policy: policies: expected one or more RevenueSharePolicy, got a list",
    ),
    (
        lambda: RevenueSharePolicies([5]),
        "invalid_policy: policies: expected one or more RevenueSharePolicy, got a list",
    ),
    (
        lambda: RevenueSharePolicies([DEFAULT, DEFAULT]),
        "invalid_policy: effective_from: expected a moment after 1970-01-01 00:00:00+00:00, got 1970-01-01 00:00:00+00:00",
    ),
    (
        lambda: RevenueSharePolicies([policy(), policy(effective_from=NOON + timedelta(1))]),
        "invalid_policy: version: expected a unique version for each policy, got a version twice",
    ),
    (
        lambda: RevenueSharePolicies([policy()]).at(NOON - timedelta(seconds=1)),
        "invalid_policy: policy: expected one in force at 2026-11-23 11:59:59.123456+00:00, got one in force from 2026-11-23 12:00:00.123456+00:00",
    ),
    (
        lambda: RevenueSharePolicies.from_dict({}),
        "invalid_policy: policies: expected the fields policies, got '[]'",
    ),
    (
        lambda: RevenueSharePolicies.from_dict({"policies": 5}),
        "invalid_policy: policies: expected a list of policies, got 5",
    ),
    (
        lambda: RevenueSharePolicy.from_dict(5),
        "invalid_policy: policy: expected the fields version, effective_from, mode, rules, and perhaps clawback, got '5'",
    ),
    (lambda: written(mode="gift"), "invalid_policy: mode: expected bonus or split, got 'gift'"),
    (lambda: written(mode=5), "invalid_policy: mode: expected text, got 5"),
    (
        lambda: written(clawback="never"),
        "invalid_policy: clawback: expected debt or clamp, got 'never'",
    ),
    (
        lambda: written(effective_from="noon"),
        "invalid_policy: effective_from: expected a moment in ISO 8601, got 'noon'",
    ),
    (
        lambda: written(effective_from=5),
        "invalid_policy: effective_from: expected a moment in ISO 8601, got 5",
    ),
    (lambda: written(rules=5), "invalid_policy: rules: expected a list of rules, got 5"),
    (
        lambda: written(more=1),
        "invalid_policy: policy: expected the fields version, effective_from, mode, rules, and perhaps clawback, got \"['effective_from', 'mode', 'more', 'rules', 'version']\"",
    ),
    (lambda: written_rule(rate=1), "invalid_policy: rate: expected text, got 1"),
    (
        lambda: written_rule(beneficiary="me"),
        "invalid_policy: beneficiary: expected a UUID, got 'me'",
    ),
    (lambda: written_rule(beneficiary=5), "invalid_policy: beneficiary: expected text, got 5"),
    (
        lambda: written_rule(cap="1.5"),
        "invalid_policy: cap: expected a whole number of credits as text, got Decimal('1.5')",
    ),
    (lambda: written_rule(cap=5), "invalid_policy: cap: expected text, got 5"),
    (
        lambda: written_rule(minimum="x"),
        "invalid_policy: minimum: expected a whole number of credits as text, got 'x'",
    ),
    (lambda: written_rule(tiers=5), "invalid_policy: tiers: expected a list of tiers, got 5"),
    (
        lambda: written_rule(tiers=[5]),
        "invalid_policy: tiers: expected the fields at_least, rate, got '5'",
    ),
    (
        lambda: written_rule(more=1),
        "invalid_policy: rules: expected the fields beneficiary, rate, and perhaps cap, minimum, tiers, got \"['beneficiary', 'more', 'rate']\"",
    ),
]


@pytest.mark.parametrize(("refused", "says"), REFUSALS, ids=[says[:60] for _, says in REFUSALS])
def test_a_refusal_has_its_code_and_message(refused: Callable[[], object], says: str) -> None:
    with pytest.raises(BillingError) as caught:
        refused()

    assert f"{caught.value.code}: {caught.value}" == says


def test_an_overrun_may_be_given_as_its_value() -> None:
    assert capturing(overrun="available") == capturing(overrun=Overrun.AVAILABLE)
