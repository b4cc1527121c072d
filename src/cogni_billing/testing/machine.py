"""A state machine: random sequences of all calls of `Billing`, on several adapters and the model.

After each call all agree on its outcome, and on every tenant's balance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import Any, ClassVar, TypeVar, cast
from uuid import UUID

from attrs import evolve
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    AccountId,
    Amount,
    Billing,
    BillingError,
    Charge,
    Grant,
    GrantSchedule,
    Hold,
    Line,
    OpeningGrant,
    Outcome,
    Overrun,
    PriceBook,
    Purchase,
    Receipt,
    RevenueSharePolicy,
    Rollover,
    Schedule,
    ShareMode,
    ShareRule,
    Shortfall,
    TenantId,
    TransactionKind,
    Unit,
    acting,
    credits,
)
from cogni_billing.domain.amounts import from_quanta
from cogni_billing.domain.policies import CLAWBACKS
from cogni_billing.domain.timestamps import EARLIEST
from cogni_billing.testing.base import (
    ALICE,
    BOB,
    CountingIds,
    MovableClock,
    NewBilling,
    NewUnitOfWork,
)
from cogni_billing.testing.model import Model, RefusedError

STEPS = 50
POLICY = RevenueSharePolicy(
    "v1",
    EARLIEST,
    ShareMode.BONUS,
    (ShareRule(SYSTEM_ACCOUNT_ID, "0.25"), ShareRule(AccountId(BOB), "0.1")),
)
PRICES = PriceBook("v1", EARLIEST, {"EUR": "10800000.5"})
EUROS = "p:e"
"""The payment that is in euros."""
CAROL = TenantId(UUID("0ca70100-0000-4000-8000-000000000003"))
TENANTS = {"alice": ALICE, "bob": BOB, "carol": CAROL, "system": SYSTEM_TENANT_ID}

tenants = st.sampled_from(["alice", "alice", "system", "bob", "carol"])
# Few keys and few sizes, so that calls interact.
keys = st.sampled_from(["a", "b", "c", "d"])
buyers = st.sampled_from(["alice", "alice", "alice", "bob"])
disputed = st.sampled_from(["p:z", "p:z", "p:z", "p:y", "p:y", "p:a", "p:e"])
choices = st.integers(0, 11)
held_keys = st.sampled_from(["a", "b"])
amounts = st.integers(1, 5) | st.sampled_from([40_000, 60_000, 100_000, 125_000])
corrections = st.sampled_from([-200_000, -60_000, -3, 2, 70_000])
cents = st.integers(1, 3)
payments = st.sampled_from(["p:z", "p:z", "p:y", "p:y", "p:a", "p:e"])
bought = keys.map("p:{}".format) | payments
parts = st.none() | st.just(1) | st.integers(1, 3)
days = timedelta(days=1)
plans = st.fixed_dictionaries(
    {
        "amount": st.integers(1, 5) | st.just(60_000),
        "priority": st.sampled_from([0, 100]),
        "every": st.sampled_from(["day", "week", "month", "month", "year"]),
        "zone": st.sampled_from(["UTC", "Europe/Berlin"]),
        "anchor": st.none() | st.sampled_from([-200 * days, -35 * days, 0 * days, 20 * days]),
        "until": st.none() | st.sampled_from([40 * days, 90 * days]),
        "cap": st.sampled_from([0, 0, 2, 100_000]),
        "periods": st.integers(1, 2),
    }
)
leaps = st.sampled_from([0, 1, 10, 60]) | st.integers(-5, 100)
expiries = st.none() | st.sampled_from([-1, 0, 1, 10, 60])
periods = st.just((None, None)) | st.tuples(
    st.none() | st.integers(-100, -5), st.none() | st.integers(-5, 20)
)
DRAWING = (
    "purchase",
    "reversal",
    "grant",
    "charge",
    "capture",
    "refund",
    "chargeback",
    "reinstatement",
    "adjustment",
)
CHARGED: dict[str, dict[str, Any]] = {
    "": {},
    "overdraft": {"allow_overdraft": True},
    "at most": {"at_most": True},
}
charges = st.tuples(
    tenants,
    amounts | st.just(0),
    keys,
    st.sampled_from(["", "", "", "overdraft", "overdraft", "at most"]),
    st.none() | st.sampled_from([0, 1, 1, 20, -1]),
)
lifetimes = st.none() | st.sampled_from([("at", n) for n in (-1, 0, 1, 10, 60)])
lifetimes |= st.sampled_from([("in", n) for n in (1, 10, 60)])
lasting = st.none() | st.sampled_from([timedelta(seconds=n) for n in (1, 10, 60)])
purchases = st.tuples(tenants, cents, bought, lasting)

OUTCOMES = {
    "ok",
    "replayed",
    "unknown_account",
    "account_frozen",
    "insufficient_credits",
    "idempotency_conflict",
    "payment_already_claimed",
    "unknown_hold",
    "hold_closed",
    "unknown_grant",
    "grant_closed",
    "invalid_time",
    "unknown_payment",
    "refund_exceeds_payment",
    "unknown_charge",
    "reversal_exceeds_charge",
    "unknown_refund",
    "unknown_dispute",
    "unknown_schedule",
}

Observed = tuple[str, Any]
Choice = TypeVar("Choice")


def observed(call: Callable[[], object]) -> Observed:
    """The value of *call*, or its error."""
    try:
        return "ok", call()
    except BillingError as error:
        return error.code, str(error)


def chosen(which: int, known: Sequence[Choice], otherwise: Choice) -> Choice:
    """An item of *known*, or *otherwise*."""
    options = [*known, otherwise]
    return options[which % len(options)]


def currency(payment: str) -> str:
    return "EUR" if payment == EUROS else "USD"


def paid(cents: int, payment: str) -> Amount:
    """That many cents, in the currency of the payment."""
    return from_quanta(cents, Unit.of(currency(payment)))


def expiry_given(seconds: int | None, expires_at: datetime | None, *, lasts: bool) -> Any:
    """The argument for an expiry: its moment, or also its lifetime if it is in the future."""
    if lasts and seconds is not None and seconds > 0:
        return {"expires_in": timedelta(seconds=seconds)}
    return {"expires_at": expires_at}


def dated(plan: dict[str, Any], now: datetime) -> dict[str, Any]:
    """*plan* with its moments, which are given as times from now."""
    moments = {
        name: None if plan[name] is None else now + plan[name] for name in ("anchor", "until")
    }
    return plan | moments | ({} if plan["cap"] else {"periods": 0})


def grant_schedule(terms: dict[str, Any]) -> GrantSchedule:
    """The value of the terms that the model knows."""
    others = {name: terms[name] for name in ("every", "zone", "priority", "anchor", "until")}
    rollover = Rollover(credits(terms["cap"]), terms["periods"]) if terms["cap"] else None
    return GrantSchedule("plan", credits(terms["amount"]), rollover=rollover, **others)


def unplaced(line: Line) -> Line:
    """*line* without its position and the id of an expiry, which differ between adapters."""
    given = line.transaction_id
    expired = line.kind is TransactionKind.EXPIRY
    return evolve(line, position=0, transaction_id=UUID(int=0) if expired else given)


class Ledgers(RuleBasedStateMachine):
    """The calls. A subclass names the ledgers, and counts the steps."""

    new: ClassVar[Sequence[Callable[[], NewBilling]]]
    steps: ClassVar[int]
    seen: ClassVar[set[str]]

    @initialize()
    def begin(self) -> None:
        self.clock = MovableClock()
        self.ids = [CountingIds() for _ in self.new]
        self.billings = [
            new()(clock=self.clock, ids=ids, policy=POLICY, prices=PRICES)
            for new, ids in zip(self.new, self.ids, strict=True)
        ]
        self.model = Model(list(TENANTS), "system")
        self.holds: dict[tuple[str, str], UUID] = {}
        self.grants: dict[tuple[str, str], UUID] = {}
        self.schedules: dict[tuple[str, str], UUID] = {}
        self.plans: dict[tuple[str, str], tuple[dict[str, Any], UUID | None]] = {}
        self.disputes: list[tuple[str, str, str]] = []
        # Gives Alice and the beneficiaries credits to spend, and holds and a dispute to end.
        self.purchase("alice", 3, "p:z")
        self.hold("alice", 5, "a", None)
        self.hold("alice", 5, "b", ("at", 1))
        self.grant("alice", 5, "a", 100, 1, lasts=False, begins=None)
        self.open_dispute("alice", "p:z", 1, "a")
        # Purchased credits that expire, to spend, to refund and to dispute.
        self.purchase("alice", 2, "p:y", timedelta(seconds=60))
        self.purchase("alice", 3, EUROS)
        # Outcomes that few random sequences meet.
        self.purchase("alice", 3, "p:z")
        self.refund("alice", "p:z", 4, "a", Shortfall.DEBT, is_total=False)
        self.refund_failed("alice", "p:z", "c", "a")
        self.purchase("bob", 3, "p:z")
        self.open_dispute("alice", "p:z", 1, "b")
        self.win_dispute(1)
        self.lose_dispute(1, None, Shortfall.DEBT)
        self.charge(("alice", 10**9, "d", "", None), "user:1")
        self.charge(("alice", 5, "d", "", None), "user:1")
        self.reverse("alice", "charge", "d", 40_000, "b")
        self.reverse("alice", "charge", "c", None, "b")
        self.end_schedule(0)

    def at(self, seconds: int | None) -> datetime | None:
        """The moment that many seconds from now."""
        return None if seconds is None else self.clock.moment + timedelta(seconds=seconds)

    def compare(
        self, call: Callable[[Billing], object], expected: Callable[[], object]
    ) -> tuple[Any, Any]:
        """Check that all ledgers agree, and refuse the calls that the model refuses.

        Returns the results of the ledgers and of the model.
        """
        type(self).steps += 1
        outcomes = [observed(lambda b=billing: call(b)) for billing in self.billings]  # type: ignore[misc]
        for other in outcomes[1:]:
            assert other == outcomes[0]
        code, value = outcomes[0]
        self.seen.add(code)
        said = said_by(expected)
        assert code == said[0], value
        return (value, said[1]) if code == "ok" else (None, None)

    def compare_receipts(
        self, call: Callable[[Billing], Receipt], expected: Callable[[], tuple[int, bool]]
    ) -> Receipt | None:
        receipt: Receipt | None
        receipt, said = self.compare(call, expected)
        if receipt is not None:
            assert (int(receipt.balance.value), receipt.replayed) == said
            if said[1]:
                self.seen.add("replayed")
        return receipt

    @rule(seconds=leaps)
    def leap(self, seconds: int) -> None:
        self.clock.moment += timedelta(seconds=seconds)

    @rule(leap=st.sampled_from([1, 8, 33]))
    def leap_days(self, leap: int) -> None:
        self.clock.moment += timedelta(days=leap)

    @rule(who=tenants, cents=cents, payment=bought, lasts=lasting)
    def purchase(self, who: str, cents: int, payment: str, lasts: timedelta | None = None) -> None:
        self.clock.moment += timedelta(seconds=1)
        receipt = self.compare_receipts(
            lambda b: b.confirm_purchase(
                TENANTS[who], paid(cents, payment), payment=payment, expires_in=lasts
            ),
            lambda: self.model.purchase(
                (who, cents, payment, lasts), currency(payment), self.clock.moment
            ),
        )
        if receipt is not None and lasts is not None:
            # It is no grant, so the calls that end grants refuse it.
            self.grants[who, f"purchase {payment}"] = receipt.transaction_id

    @rule(charge=charges, by=st.sampled_from(["user:1", "user:2"]))
    def charge(self, charge: tuple[str, int, str, str, int | None], by: str) -> None:
        who, amount, key, how, ago = charge
        occurred_at = self.at(None if ago is None else -ago)
        with acting(by=by):
            self.compare_receipts(
                lambda b: b.charge(
                    TENANTS[who],
                    credits(amount),
                    reference=key,
                    occurred_at=occurred_at,
                    **CHARGED[how],
                ),
                lambda: self.model.charge(
                    (who, amount, key, how, occurred_at), self.clock.moment, by
                ),
            )
        view, actor = self.compare(
            lambda b: b.find(TENANTS[who], reference=key, kind="charge"),
            lambda: self.model.actor(who, key),
        )
        assert (view and view.actor) == actor

    @rule(
        who=tenants,
        amount=amounts,
        key=keys,
        priority=st.sampled_from([0, 100]),
        expires=expiries,
        lasts=st.booleans(),
        begins=st.none() | st.sampled_from([-1, 0, 1, 10, 59]),
    )
    def grant(
        self,
        who: str,
        amount: int,
        key: str,
        priority: int,
        expires: int | None,
        lasts: bool,
        begins: int | None,
    ) -> None:
        effective_from, expires_at = self.at(begins), self.at(expires)
        expiry = expiry_given(expires, expires_at, lasts=lasts)
        if "expires_in" in expiry:
            expires_at = max(self.clock.moment, effective_from or EARLIEST) + expiry["expires_in"]
        receipt = self.compare_receipts(
            lambda b: b.grant(
                TENANTS[who],
                credits(amount),
                source="promo",
                reference=key,
                priority=priority,
                effective_from=effective_from,
                **expiry,
            ),
            lambda: self.model.grant(
                who,
                (amount, priority, expires_at),
                key,
                self.clock.moment,
                tuple(expiry.items()),
                effective_from,
            ),
        )

        if receipt is not None:
            self.grants[who, key] = receipt.transaction_id

    def chosen_grant(self, which: int) -> tuple[tuple[str, str], UUID]:
        """The key and id of a grant, which may have ended, or of an unknown grant."""
        return chosen(which, [*self.grants.items()], (("alice", "none"), UUID(int=2**64)))

    @rule(which=choices, key=held_keys)
    def void_grant(self, which: int, key: str) -> None:
        (who, grant), grant_id = self.chosen_grant(which)
        self.compare_receipts(
            lambda b: b.void_grant(TENANTS[who], grant_id, reference=key),
            lambda: self.model.void(who, grant, key, self.clock.moment),
        )

    def compare_schedules(
        self,
        call: Callable[[Billing], Schedule],
        expected: Callable[[], tuple[tuple[Any, ...], bool]],
    ) -> Schedule | None:
        schedule, said = self.compare(call, expected)
        if schedule is not None:
            assert (told(schedule), schedule.replayed) == said
        return cast("Schedule | None", schedule)

    def chosen_schedule(self, which: int) -> tuple[str, UUID]:
        """The owner and the id of a schedule, or of an unknown schedule."""
        known = [(who, schedule_id) for (who, _), schedule_id in self.schedules.items()]
        return chosen(which, known, ("alice", UUID(int=2**64)))

    @rule(
        who=buyers,
        plan=plans,
        key=held_keys,
        replaces=st.none() | choices,
        again=st.sampled_from([False, False, True]),
    )
    def schedule(
        self, who: str, plan: dict[str, Any], key: str, replaces: int | None, again: bool
    ) -> None:
        """Schedule a plan, or make the last call with this key again."""
        old = None if replaces is None else self.chosen_schedule(replaces)[1]
        asked = dated(plan, self.clock.moment), old
        if again:
            asked = self.plans.get((who, key), asked)
        self.plans[who, key] = terms, old = asked
        made = self.compare_schedules(
            lambda b: b.schedule_grants(
                TENANTS[who], grant_schedule(terms), reference=key, replaces=old
            ),
            lambda: self.model.schedule(
                (who, terms, None if old is None else str(old)),
                str(UUID(int=self.ids[0].count)),
                key,
                self.clock.moment,
            ),
        )
        if made is not None:
            self.schedules[who, key] = made.id
            granted = f"{made.id} {made.first_number}"
            self.grants[who, granted] = UUID(bytes=sha256(granted.encode()).digest()[:16])

    @rule(which=choices)
    def end_schedule(self, which: int) -> None:
        who, schedule_id = self.chosen_schedule(which)
        self.compare_schedules(
            lambda b: b.end_schedule(TENANTS[who], schedule_id),
            lambda: self.model.end_schedule(who, str(schedule_id), self.clock.moment),
        )

    @rule(who=buyers, limit=st.integers(1, 3))
    def list_schedules(self, who: str, limit: int) -> None:
        found, said = self.compare(
            lambda b: all_schedules(b, TENANTS[who], limit),
            lambda: self.model.schedules(who, self.clock.moment),
        )
        if found is not None:
            assert [told(each) for each in sorted(found, key=lambda each: each.id)] == said
            places = [(each.created_at, each.id) for each in found]
            assert places == sorted(places, reverse=True)

    @rule(
        which=choices, key=held_keys, expires=st.sampled_from([-1, 1, 10, 60]), lasts=st.booleans()
    )
    def extend_grant(self, which: int, key: str, expires: int, lasts: bool) -> None:
        (who, grant), grant_id = self.chosen_grant(which)
        expires_at = self.clock.moment + timedelta(seconds=expires)
        expiry = expiry_given(expires, expires_at, lasts=lasts)
        extension, replayed = self.compare(
            lambda b: b.extend_grant(TENANTS[who], grant_id, reference=key, **expiry),
            lambda: self.model.extend(
                who, grant, expires_at, key, self.clock.moment, tuple(expiry.items())
            ),
        )
        if extension is not None:
            assert extension.replayed is replayed

    def ends(self, given: tuple[str, int] | None) -> tuple[dict[str, Any], Any]:
        """The arguments of an expiry, and the same for the model."""
        if given is None:
            return {}, None
        form, seconds = given
        if form == "in":
            return {"expires_in": timedelta(seconds=seconds)}, timedelta(seconds=seconds)
        return {"expires_at": self.at(seconds)}, self.at(seconds)

    def compare_holds(
        self, call: Callable[[Billing], Hold], expected: Callable[[], tuple[tuple[Any, ...], bool]]
    ) -> Hold | None:
        hold, said = self.compare(call, expected)
        if hold is not None:
            assert (described(hold), hold.replayed) == said
        return cast("Hold | None", hold)

    @rule(who=tenants, amount=amounts, key=held_keys, expires=lifetimes)
    def hold(self, who: str, amount: int, key: str, expires: tuple[str, int] | None) -> None:
        given, ends = self.ends(expires)
        held = self.compare_holds(
            lambda b: b.hold(TENANTS[who], credits(amount), reference=key, **given),
            lambda: self.model.hold(who, amount, key, ends, self.clock.moment),
        )
        if held is not None:
            self.holds[who, key] = held.id

    def chosen_hold(self, which: int) -> tuple[tuple[str, str], UUID]:
        """The key and id of a hold in any state, or of an unknown hold."""
        return chosen(which, [*self.holds.items()], (("alice", "none"), UUID(int=2**64)))

    @rule(
        which=choices,
        other=st.none() | tenants,
        amount=st.just(0) | amounts,
        final=st.booleans(),
        overrun=st.sampled_from(Overrun),
        key=keys,
    )
    def capture(
        self, which: int, other: str | None, amount: int, final: bool, overrun: Overrun, key: str
    ) -> None:
        (whose, hold), hold_id = self.chosen_hold(which)
        who = other or whose
        named = hold if who == whose else str(hold_id)
        asked = (amount, final, overrun.value)
        self.compare_receipts(
            lambda b: b.capture(
                TENANTS[who],
                hold_id,
                credits(amount),
                reference=key,
                final=final,
                overrun=overrun,
            ),
            lambda: self.model.capture(who, named, asked, key, self.clock.moment),
        )

    @rule(which=choices, amount=st.none() | amounts, expires=lifetimes, key=held_keys)
    def extend(
        self, which: int, amount: int | None, expires: tuple[str, int] | None, key: str
    ) -> None:
        (who, hold), hold_id = self.chosen_hold(which)
        if amount is None and expires is None:
            amount = 1
        given, ends = self.ends(expires)
        more = None if amount is None else credits(amount)
        self.compare_holds(
            lambda b: b.extend(TENANTS[who], hold_id, more, reference=key, **given),
            lambda: self.model.extend_hold(who, hold, (amount, ends), key, self.clock.moment),
        )

    @rule(which=choices, amount=st.none() | amounts, key=held_keys)
    def release_part(self, which: int, amount: int | None, key: str) -> None:
        (who, hold), hold_id = self.chosen_hold(which)
        part = None if amount is None else credits(amount)
        self.compare_holds(
            lambda b: b.release(TENANTS[who], hold_id, part, reference=key),
            lambda: self.model.release_part(who, hold, amount, key, self.clock.moment),
        )

    @rule(who=tenants, key=held_keys)
    def find_hold(self, who: str, key: str) -> None:
        hold, said = self.compare(
            lambda b: b.find_hold(TENANTS[who], key),
            lambda: self.model.find_hold(who, key, self.clock.moment),
        )
        assert (None if hold is None else described(hold)) == said

    @rule(who=tenants, limit=st.integers(1, 3))
    def list_holds(self, who: str, limit: int) -> None:
        holds, said = self.compare(
            lambda b: all_holds(b, TENANTS[who], limit),
            lambda: self.model.holds(who, self.clock.moment),
        )
        if holds is not None:
            assert sorted(hold.reference for hold in holds) == sorted(said)
            places = [(hold.opened_at, hold.id) for hold in holds]
            assert places == sorted(places, reverse=True)

    @rule(which=choices)
    def release(self, which: int) -> None:
        (who, hold), hold_id = self.chosen_hold(which)
        released, before = self.compare(
            lambda b: b.release(TENANTS[who], hold_id),
            lambda: self.model.release(who, hold, self.clock.moment),
        )
        if released is not None:
            assert released.replayed is before

    @rule(
        who=tenants,
        payment=payments,
        cents=parts,
        key=held_keys,
        shortfall=st.sampled_from(Shortfall),
        is_total=st.booleans(),
    )
    def refund(
        self,
        who: str,
        payment: str,
        cents: int | None,
        key: str,
        shortfall: Shortfall,
        *,
        is_total: bool,
    ) -> None:
        is_total = is_total and cents is not None
        part = None if cents is None else paid(cents, payment)
        self.compare_receipts(
            lambda b: b.refund(
                TENANTS[who],
                payment=payment,
                amount=None if is_total else part,
                total=part if is_total else None,
                reference=key,
                shortfall=shortfall,
            ),
            lambda: self.model.refund(
                who, (payment, cents, shortfall.value, is_total), key, self.clock.moment
            ),
        )

    @rule(who=buyers, payment=disputed, refund=keys, key=held_keys)
    def refund_failed(self, who: str, payment: str, refund: str, key: str) -> None:
        self.compare_receipts(
            lambda b: b.refund_failed(TENANTS[who], payment=payment, refund=refund, reference=key),
            lambda: self.model.refund_failed(who, (payment, refund), key, self.clock.moment),
        )

    @rule(who=tenants, amount=corrections, key=held_keys, reason=st.sampled_from(["x", "y"]))
    def adjust(self, who: str, amount: int, key: str, reason: str) -> None:
        self.compare_receipts(
            lambda b: b.adjust(TENANTS[who], credits(amount), reason=reason, reference=key),
            lambda: self.model.adjust(who, (amount, reason), key, self.clock.moment),
        )

    @rule(
        who=tenants,
        kind=st.sampled_from(["charge", "charge", "capture"]),
        charged=keys,
        amount=st.none() | amounts,
        key=held_keys,
    )
    def reverse(self, who: str, kind: str, charged: str, amount: int | None, key: str) -> None:
        found = self.known(who, kind, charged)
        if kind == "capture" and found is None:
            return
        self.compare_receipts(
            lambda b: b.reverse(
                TENANTS[who],
                charge=charged if kind == "charge" or found is None else found,
                amount=None if amount is None else credits(amount),
                reference=key,
            ),
            lambda: self.model.reverse(who, (kind, charged, amount), key, self.clock.moment),
        )

    def known(self, who: str, kind: str, key: str) -> UUID | None:
        """The id of a transaction."""
        code, view = observed(lambda: self.billings[0].find(TENANTS[who], reference=key, kind=kind))
        return view.id if code == "ok" and view is not None else None

    @rule(
        who=st.sampled_from(["carol", "carol", "bob", "alice"]),
        purchased=st.just(0) | corrections,
        grants=st.lists(
            st.tuples(
                amounts,
                st.sampled_from([0, 100]),
                st.none() | st.sampled_from([1, 60]),
                st.sampled_from([0, 0, 9]),
            ),
            max_size=2,
        ),
        ago=st.sampled_from([0, 0, 10]),
    )
    def opening(
        self,
        who: str,
        purchased: int,
        grants: list[tuple[int, int, int | None, int]],
        ago: int,
    ) -> None:
        as_of = self.clock.moment - timedelta(seconds=ago)
        brought = tuple(
            OpeningGrant(
                amount=credits(amount),
                source="promo",
                priority=priority,
                expires_at=None if lasts is None else as_of + timedelta(seconds=lasts),
                granted_at=as_of - timedelta(seconds=before),
            )
            for amount, priority, lasts, before in grants
        )
        known = tuple(
            (int(each.amount.value), each.priority, each.expires_at, each.granted_at)
            for each in brought
        )
        self.compare_receipts(
            lambda b: b.opening(
                TENANTS[who], purchased=credits(purchased), grants=brought, as_of=as_of
            ),
            lambda: self.model.opening(who, purchased, known, as_of),
        )

    @rule(
        who=tenants, reason=st.sampled_from(["x", "y"]), ends=st.sampled_from([True, True, False])
    )
    def freeze(self, who: str, reason: str, ends: bool) -> None:
        frozen, said = self.compare(
            lambda b: b.freeze(TENANTS[who], reason), lambda: self.model.freeze(who, reason)
        )
        if frozen is not None:
            assert said in {frozen.freeze.reason, "erased"}
        self.charge((who, 1, "frozen", "overdraft", None), "user:1")
        if ends:
            self.compare(lambda b: b.unfreeze(TENANTS[who]), lambda: self.model.freeze(who, None))

    @rule(who=tenants, limit=st.none() | st.sampled_from([0, 5, 60_000]))
    def set_overdraft_limit(self, who: str, limit: int | None) -> None:
        account, said = self.compare(
            lambda b: b.set_overdraft_limit(
                TENANTS[who], None if limit is None else credits(limit)
            ),
            lambda: self.model.limit_overdraft(who, limit),
        )
        if account is not None:
            given = account.overdraft_limit
            assert (None if given is None else int(given.value)) == said

    @rule(who=buyers, payment=disputed, cents=parts, key=held_keys)
    def open_dispute(self, who: str, payment: str, cents: int | None, key: str) -> None:
        dispute, said = self.compare(
            lambda b: b.open_dispute(
                TENANTS[who],
                payment=payment,
                amount=None if cents is None else paid(cents, payment),
                reference=key,
            ),
            lambda: self.model.open_dispute(who, payment, cents, key, self.clock.moment),
        )
        if dispute is not None:
            assert (dispute.state, dispute.replayed) == said
            self.disputes.append((who, payment, key))

    def chosen_dispute(self, which: int) -> tuple[str, str, str]:
        """A dispute in any state, or an unknown dispute."""
        return chosen(which, self.disputes, ("alice", "p:z", "none"))

    @rule(which=choices)
    def win_dispute(self, which: int) -> None:
        who, payment, key = self.chosen_dispute(which)
        dispute, before = self.compare(
            lambda b: b.win_dispute(TENANTS[who], payment=payment, reference=key),
            lambda: self.model.win_dispute(who, payment, key, self.clock.moment),
        )
        if dispute is not None:
            assert dispute.replayed is before

    @rule(which=choices, cents=st.integers(1, 4))
    def update_dispute(self, which: int, cents: int) -> None:
        who, payment, key = self.chosen_dispute(which)
        dispute, before = self.compare(
            lambda b: b.update_dispute(
                TENANTS[who], payment=payment, reference=key, amount=paid(cents, payment)
            ),
            lambda: self.model.update_dispute(who, payment, key, cents, self.clock.moment),
        )
        if dispute is not None:
            assert dispute.replayed is before

    @rule(
        which=choices,
        cents=st.none() | st.integers(1, 3),
        shortfall=st.sampled_from(CLAWBACKS),
    )
    def lose_dispute(self, which: int, cents: int | None, shortfall: Shortfall) -> None:
        who, payment, key = self.chosen_dispute(which)
        self.compare_receipts(
            lambda b: b.lose_dispute(
                TENANTS[who],
                payment=payment,
                amount=None if cents is None else paid(cents, payment),
                reference=key,
                shortfall=shortfall,
            ),
            lambda: self.model.lose_dispute(
                who, (payment, cents, shortfall.value), key, self.clock.moment
            ),
        )

    @rule(batch=st.lists(charges, max_size=6), together=st.booleans())
    def charge_many(
        self, batch: list[tuple[str, int, str, str, int | None]], together: bool
    ) -> None:
        charges = [
            (who, amount, key, how, self.at(None if ago is None else -ago))
            for who, amount, key, how, ago in batch
        ]
        requests = [
            Charge(
                tenant=TENANTS[who],
                amount=credits(amount),
                reference=key,
                occurred_at=occurred_at,
                **CHARGED[how],
            )
            for who, amount, key, how, occurred_at in charges
        ]
        self.compare_batches(
            lambda b: b.charge_many(requests, all_or_nothing=together),
            [(charge[0], charge) for charge in charges],
            lambda charge: self.model.charge(charge, self.clock.moment),
            together,
        )

    @rule(batch=st.lists(purchases, max_size=6), together=st.booleans())
    def confirm_purchases(
        self, batch: list[tuple[str, int, str, timedelta | None]], together: bool
    ) -> None:
        requests = [
            Purchase(
                tenant=TENANTS[who], amount=paid(cents, payment), payment=payment, expires_in=lasts
            )
            for who, cents, payment, lasts in batch
        ]
        self.compare_batches(
            lambda b: b.confirm_purchases(requests, all_or_nothing=together),
            [(purchase[0], purchase) for purchase in batch],
            lambda purchase: self.model.purchase(
                purchase, currency(purchase[2]), self.clock.moment
            ),
            together,
        )

    def compare_batches(
        self,
        call: Callable[[Billing], tuple[Outcome[Any], ...]],
        requests: list[tuple[str, Any]],
        one: Callable[[Any], tuple[int, bool]],
        together: bool,
    ) -> None:
        outcomes, said = self.compare(
            lambda b: [observed_outcome(outcome) for outcome in call(b)],
            lambda: self.expected(requests, one, together),
        )
        assert [outcome[:2] for outcome in outcomes] == said

    def expected(
        self,
        requests: list[tuple[str, Any]],
        one: Callable[[Any], tuple[int, bool]],
        together: bool,
    ) -> list[tuple[str, Any]]:
        """The outcome of each request, with the requests of each tenant in order."""
        said: dict[int, tuple[str, Any]] = {}
        for who in sorted({who for who, _ in requests}, key=lambda who: TENANTS[who]):
            several = sum(whose == who for whose, _ in requests) > 1
            if several:
                self.model.catch_up(who, self.clock.moment)
            before = deepcopy(self.model.state)
            for place, (whose, request) in enumerate(requests):
                if whose == who:
                    said[place] = said_by(partial(one, request))
            places = [place for place, (whose, _) in enumerate(requests) if whose == who]
            if several and together and any(said[place][0] != "ok" for place in places):
                self.model.state = before
                for place in places:
                    if said[place][0] == "ok":
                        said[place] = ("others_refused", None)
        return [said[place] for place in range(len(requests))]

    @rule(who=tenants, back=st.integers(-100, 300))
    def look_back(self, who: str, back: int) -> None:
        moment = self.clock.moment - timedelta(seconds=back)
        balance, said = self.compare(
            lambda b: b.balance(TENANTS[who], at=moment),
            lambda: self.model.balance_at(who, moment),
        )
        if balance is not None:
            assert (int(balance.posted.value), int(balance.held.value)) == said

    @rule(who=tenants)
    def look_at_grants(self, who: str) -> None:
        grants, said = self.compare(
            lambda b: b.grants(TENANTS[who]),
            lambda: self.model.grants(who, self.clock.moment),
        )
        if grants is not None:
            assert [int(grant.remaining.value) for grant in grants] == said

    @rule(who=tenants)
    def look_at_lots(self, who: str) -> None:
        lots, said = self.compare(
            lambda b: b.lots(TENANTS[who]),
            lambda: self.model.lots(who, self.clock.moment),
        )
        if lots is not None:
            assert [(int(lot.remaining.value), lot.expires_at) for lot in lots] == said

    @rule(who=tenants, limit=st.integers(1, 4))
    def look_at_all_grants(self, who: str, limit: int) -> None:
        grants, said = self.compare(
            lambda b: all_grants(b, TENANTS[who], limit),
            lambda: self.model.all_grants(who, self.clock.moment),
        )
        if grants is not None:
            assert [int(grant.remaining.value) for grant in grants] == said

    @rule(who=tenants, kind=st.sampled_from(DRAWING), key=keys)
    def look_at_draws(self, who: str, kind: str, key: str) -> None:
        view, said = self.compare(
            lambda b: b.find(TENANTS[who], reference=key, kind=kind),
            lambda: self.model.draws(who, kind, key),
        )
        parts = [(int(d.amount.value), d.purchased) for d in view.draws] if view else None
        assert parts == said

    @rule(who=tenants, limit=st.integers(1, 4), kind=st.none() | st.just("charge"), within=periods)
    def read_statement(
        self, who: str, limit: int, kind: str | None, within: tuple[int | None, int | None]
    ) -> None:
        since, until = map(self.at, within)
        found, said = self.compare(
            lambda b: all_lines(b, TENANTS[who], limit, kind=kind, since=since, until=until),
            lambda: self.model.statement(who, since, until, self.clock.moment),
        )
        if found is None:
            return
        opening, lines, closing = found
        assert (opening, closing) == (said[0], said[2])
        if kind is None:
            assert sorted(int(line.amount.value) for line in lines) == said[1]
        if kind is None and within == (None, None):
            older = [*(line.balance_after for line in lines[1:]), credits(0)]
            before = [line.balance_after - line.amount for line in lines]
            assert lines == [] or before == older, f"the statement of {who} does not run on"

    @rule()
    def sweep(self) -> None:
        swept, said = self.compare(lambda b: b.sweep(), lambda: self.model.due(self.clock.moment))
        assert swept == said
        self.model.sweep(self.clock.moment)

    @rule(who=tenants)
    def forget(self, who: str) -> None:
        self.compare(lambda b: b.forget(TENANTS[who]), lambda: self.model.forget(who))

    @rule()
    def fold(self) -> None:
        self.compare(folded, lambda: None)

    @rule()
    def verify(self) -> None:
        found, _ = self.compare(lambda b: b.verify(), lambda: None)
        assert found.violations == ()

    @invariant()
    def balances_agree(self) -> None:
        for who, tenant in TENANTS.items():
            for billing in self.billings:
                code, found = observed(partial(billing.balance, tenant))
                if code == "ok":
                    found = int(found.posted.value), int(found.held.value)
                assert (code, found if code == "ok" else None) == said_by(
                    partial(self.model.balance, who, self.clock.moment)
                )


def said_by(model: Callable[[], Any]) -> Observed:
    """The outcome of a call on the model."""
    try:
        return "ok", model()
    except RefusedError as refused:
        return str(refused), None


def folded(billing: Billing) -> None:
    """Fold, and ignore the counts, which differ between adapters."""
    billing.fold()


def observed_outcome(outcome: Outcome[Any]) -> tuple[str, Any, Any]:
    """The code, the part that the model knows, and the whole outcome."""
    if outcome.receipt is None:
        assert outcome.error is not None
        return outcome.error.code, None, str(outcome.error)
    receipt = outcome.receipt
    return "ok", (int(receipt.balance.value), receipt.replayed), receipt


def all_grants(billing: Billing, tenant: TenantId, limit: int) -> list[Grant]:
    """Every grant, page by page."""
    grants = page = billing.grants(tenant, spent=True, limit=limit)
    while len(page) == limit:
        page = billing.grants(tenant, spent=True, limit=limit, after=page[-1].id)
        grants += page
    return list(grants)


def all_lines(
    billing: Billing, tenant: TenantId, limit: int, **chosen: Any
) -> tuple[int, list[Line], int]:
    """The opening balance, every line, page by page, and the closing balance."""
    page = billing.statement(tenant, limit=limit, **chosen)
    around = page.opening, page.closing
    lines = list(page.lines)
    while page.next is not None:
        page = billing.statement(tenant, limit=limit, after=page.next, **chosen)
        assert (page.opening, page.closing) == around
        lines += page.lines
    opening, closing = (int(balance.value) for balance in around)
    return opening, [unplaced(line) for line in lines], closing


def described(hold: Hold) -> tuple[Any, ...]:
    """The fields that the model knows."""
    parts = (hold.held, hold.captured, hold.released)
    return (hold.state.value, *(int(part.value) for part in parts))


def told(schedule: Schedule) -> tuple[Any, ...]:
    """The fields that the model knows."""
    return schedule.number, schedule.next_at, schedule.ended_at


def all_schedules(billing: Billing, tenant: TenantId, limit: int) -> list[Schedule]:
    """Every schedule, page by page."""
    schedules = page = billing.schedules(tenant, limit=limit)
    while len(page) == limit:
        page = billing.schedules(tenant, limit=limit, after=page[-1].id)
        schedules += page
    return list(schedules)


def all_holds(billing: Billing, tenant: TenantId, limit: int) -> list[Hold]:
    """Every open hold, page by page."""
    page = billing.holds(tenant, limit=limit)
    holds = list(page.holds)
    while page.next is not None:
        page = billing.holds(tenant, limit=limit, after=page.next)
        holds += page.holds
    return holds


def run(
    new_ledgers: Sequence[Callable[[], NewBilling]], sequences: int, *, anew: bool = False
) -> int:
    """Run that many sequences of calls, and return the number of steps.

    Each of *new_ledgers* makes a `Billing` over an empty ledger. By default the sequences are the
    same in each run, and have every kind of outcome. With *anew*, each run has random sequences.
    """

    class Machine(Ledgers):
        new = new_ledgers
        steps = 0
        seen: ClassVar[set[str]] = set()

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=sequences,
            stateful_step_count=STEPS,
            derandomize=not anew,
            database=None,
            deadline=None,  # a host's machine may be slow
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
    assert anew or Machine.seen >= OUTCOMES
    return Machine.steps


class ModelContract:
    """Random sequences of all calls of `Billing` have the outcomes of the model."""

    SEQUENCES: ClassVar = 50
    ANEW: ClassVar = False
    """True if each run has random sequences, to search further than earlier runs."""

    def test_random_sequences_of_calls_match_the_model(
        self, new_unit_of_work: NewUnitOfWork
    ) -> None:
        ledger = [lambda: partial(Billing, new_unit_of_work())]
        steps = run(ledger, self.SEQUENCES, anew=self.ANEW)

        assert steps >= self.SEQUENCES * STEPS // 4
