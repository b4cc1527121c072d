"""A model of the ledger in whole numbers, dictionaries and lists.

It shares no code with the library. The tests compare every adapter with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from cogni_billing.testing.model_periods import begin

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
NEVER = datetime.max.replace(tzinfo=UTC)
CREDITS_FOR_A_CENT = {"USD": 100_000_000, "EUR": 108_000_005}
"""In thousandths of a credit."""
REPORTED_WITHIN = timedelta(days=35)
AFTER_GRANTS = 1_000_001
"""The priority of purchased credits that expire."""
SHARES = {"system": (1, 4), "bob": (1, 10)}
Dict = dict[str, Any]
Draws = list[tuple[Dict, int]]
Ends = datetime | timedelta | None
"""The expiry of a hold, as a moment or as a lifetime."""
Told = tuple[Any, ...]
"""The state of a hold, and its held, captured and released credits."""


AFTER_SETTLING = {
    *("account_frozen", "insufficient_credits", "unknown_hold", "hold_closed", "invalid_time"),
    *("payment_already_claimed", "unknown_grant", "grant_closed"),
    *("unknown_charge", "reversal_exceeds_charge", "unknown_schedule"),
}
"""Refusals that are decided after all that is due is posted."""


class RefusedError(Exception):
    """A refused call. Its text is the code of the library's error."""


def _new_tenant() -> Dict:
    return {
        "open": False,
        "opened": BEGINNING,
        "as_of": BEGINNING,
        "lines": [],  # (moment, amount) of the tenant's own transactions
        "arrivals": [],  # (moment, amount) of other tenants' transactions
        "holds": {},
        "disputed": {},  # lists of credits set aside, by disputes of any tenant's payments
        "grants": {},
        "schedules": {},  # in the order of their ids, also grants that begin later
        "named": {},  # the ids of schedules, by their keys
        "keys": {},
        "actors": {},  # of charges
        "given_back": {},  # credits of charges and captures, by their keys
        "frozen": None,
        "limit": None,  # of overdrafts
    }


class Model:
    """All tenants, payments and disputes."""

    def __init__(self, tenants: list[str], system: str) -> None:
        self.system = system
        self.state: Dict = {
            "tenants": {tenant: _new_tenant() for tenant in tenants},
            "payments": {},
            "disputes": {},
        }
        self.state["tenants"][system]["open"] = True

    @contextmanager
    def attempt(self, settling: tuple[str, datetime] | None = None) -> Iterator[None]:
        """A block whose changes are undone if it is refused.

        A call in a scope of its own names the tenant and the moment in *settling*. If the wallet
        refuses that call, the expirations that were due stay recorded.
        """
        before = deepcopy(self.state)
        try:
            yield
        except RefusedError as refused:
            self.state = before
            if settling is not None and str(refused) in AFTER_SETTLING:
                self.catch_up(*settling)
            raise

    # Writes -----------------------------------------------------------------------------------

    def purchase(
        self, asked: tuple[str, int, str, timedelta | None], money: str, now: datetime
    ) -> tuple[int, bool]:
        who, cents, payment, lasts = asked

        def record(tenant: Dict) -> Draws:
            if payment in self.state["payments"]:
                raise RefusedError("payment_already_claimed")
            bought = -(-cents * CREDITS_FOR_A_CENT[money] // 1000)
            shares = {to: bought * n // d for to, (n, d) in SHARES.items() if to != who}
            self.state["payments"][payment] = {
                "who": who,
                "cents": cents,
                "bought": bought,
                "shares": shares,
                "returned": 0,  # cents whose credits were taken back
                "refunds": {},  # the cents that stand, by the key of the refund
                "failed": {},  # the key of each failure, by the key of the refund
                "moves": [],  # the parts of each leg that were taken, or given back
            }
            open_account(tenant, now)
            expire_due(tenant, now)
            draws = []
            if lasts is None:
                add(tenant, bought)
            else:
                terms = (bought, AFTER_GRANTS, now + lasts)
                key, placed = ("purchase", payment), (now, b"", len(tenant["grants"]))
                draws = give(tenant, key, terms, placed)
            for to, share in shares.items():
                self.state["tenants"][to]["arrivals"].append((now, share))
            return draws

        return self._once(who, ("purchase", payment), (cents, money, lasts), record, now)

    def charge(
        self,
        asked: tuple[str, int, str, str, datetime | None],
        now: datetime,
        by: str | None = None,
    ) -> tuple[int, bool]:
        who, amount, reference, how, occurred = asked

        def record(tenant: Dict) -> Draws:
            require_open(tenant)
            expire_due(tenant, now)
            if occurred is not None:
                earliest = max(tenant["opened"], now - REPORTED_WITHIN)
                if occurred < earliest or occurred > now:
                    raise RefusedError("invalid_time")
            require_unfrozen(tenant)
            taken = amount
            if how == "at most":
                taken = min(amount, max(available(tenant), 0))
            else:
                require_covered(tenant, amount, overdraft=how == "overdraft")
            add(tenant, -taken)
            tenant["actors"][reference] = by
            return draw(tenant, taken)

        return self._once(who, ("charge", reference), (amount, how, occurred), record, now)

    def grant(
        self,
        who: str,
        asked: tuple[int, int, datetime | None],
        reference: str,
        now: datetime,
        expiry: object = None,
        begins: datetime | None = None,
    ) -> tuple[int, bool]:
        """*expiry* is as the caller gave it, in another form than the moment in *asked*."""
        amount, priority, expires = asked

        def record(tenant: Dict) -> Draws | None:
            open_account(tenant, now)
            expire_due(tenant, now)
            if begins is not None and begins > tenant["as_of"]:
                wait(tenant, (amount, priority, expires), reference, begins)
                return None
            if expires is not None and expires <= tenant["as_of"]:
                raise RefusedError("invalid_time")
            return give(tenant, reference, asked, (now, b"", len(tenant["grants"])))

        if begins is not None and expires is not None and expires <= begins:
            raise RefusedError("invalid_time")
        request = (amount, priority, expiry or expires, begins)
        return self._once(who, ("grant", reference), request, record, now)

    def schedule(
        self,
        asked: tuple[str, Dict, str | None],
        schedule_id: str,
        reference: str,
        now: datetime,
    ) -> tuple[Told, bool]:
        """*asked* has the tenant, the terms, and the id of the schedule to replace.

        Returns the number of the next period, its moment and the end, and true if it is a replay.
        """
        who, terms, replaces = asked

        def record(tenant: Dict) -> None:
            expire_due(tenant, now)
            if replaces is not None:
                replace(tenant, known_schedule(tenant, replaces))
            open_account(tenant, now)
            anchor = terms["anchor"] or now
            number = 0
            while (next_one := begin(anchor, terms["every"], terms["zone"], number + 1)) and (
                next_one <= tenant["as_of"]
            ):
                number += 1
            tenant["named"][reference] = schedule_id
            tenant["schedules"][schedule_id] = made = {
                **terms,
                "id": schedule_id,
                "begins": anchor,
                "first": number,
                "number": number,
                "ended": None,
                "key": None,
            }
            made["next"] = following(made)
            expire_due(tenant, now)

        request = (tuple(terms.items()), replaces)
        _, replayed = self._once(who, ("schedule", reference), request, record, now)
        return self._told_schedule(who, reference, now), replayed

    def _told_schedule(self, who: str, reference: str, now: datetime) -> Told:
        tenant = deepcopy(self.state["tenants"][who])
        expire_due(tenant, now)
        found = tenant["schedules"][tenant["named"][reference]]
        return found["number"], found["next"], found["ended"]

    def end_schedule(self, who: str, schedule_id: str, now: datetime) -> tuple[Told, bool]:
        """Returns the schedule, and true if it was ended before."""
        with self.attempt((who, now)):
            tenant = self.state["tenants"][who]
            require_open(tenant)
            expire_due(tenant, now)
            found = known_schedule(tenant, schedule_id)
            before = found["ended"] is not None
            end_one(tenant, found)
            return (found["number"], found["next"], found["ended"]), before

    def schedules(self, who: str, now: datetime) -> list[Told]:
        """Returns each schedule, in the order of their ids."""
        tenant = deepcopy(self.state["tenants"][who])
        require_known(tenant)
        expire_due(tenant, now)
        return [
            (each["number"], each["next"], each["ended"]) for each in tenant["schedules"].values()
        ]

    def void(self, who: str, grant: str, reference: str, now: datetime) -> tuple[int, bool]:
        def record(tenant: Dict) -> None:
            require_open(tenant)
            expire_due(tenant, now)
            waiting = [each for each in tenant["schedules"].values() if each["key"] == grant]
            if waiting and grant not in tenant["grants"]:
                end_one(tenant, waiting[0])
                add(tenant, 0)
            else:
                void(tenant, known_grant(tenant, grant))

        return self._once(who, ("void", reference), (grant,), record, now)

    def extend(
        self,
        who: str,
        grant: str,
        expires: datetime,
        reference: str,
        now: datetime,
        expiry: object,
    ) -> bool:
        """Returns true if it is a replay. *expiry* is as the caller gave it."""

        def record(tenant: Dict) -> None:
            require_open(tenant)
            expire_due(tenant, now)
            found = known_grant(tenant, grant)
            if found["expires"] is not None and found["expires"] <= tenant["as_of"]:
                raise RefusedError("grant_closed")
            if found["expires"] is None or expires <= found["expires"]:
                raise RefusedError("invalid_time")
            found["expires"] = expires

        _, replayed = self._once(who, ("extension", reference), (grant, expiry), record, now)
        return replayed

    def hold(
        self, who: str, amount: int, reference: str, ends: Ends, now: datetime
    ) -> tuple[Told, bool]:
        """Returns the hold, and true if it is a replay."""
        expires = ending(ends, now)

        def record(tenant: Dict) -> None:
            require_open(tenant)
            expire_due(tenant, now)
            if expires is not None and expires <= tenant["as_of"]:
                raise RefusedError("invalid_time")
            require_unfrozen(tenant)
            if amount > available(tenant):
                raise RefusedError("insufficient_credits")
            tenant["holds"][reference] = {
                "held": amount,
                "captured": 0,
                "released": 0,
                "opened": now,
                "expires": expires,
                "ended": None,
                "state": "open",
                "pins": draw(tenant, amount),
                "changes": [(now, amount)],
            }

        _, replayed = self._once(who, ("hold", reference), (amount, ends), record, now)
        return self._open_hold(who, reference, now), replayed

    def extend_hold(
        self, who: str, hold: str, more: tuple[int | None, Ends], reference: str, now: datetime
    ) -> tuple[Told, bool]:
        """Returns the hold, and true if it is a replay."""
        amount, ends = more
        expires = ending(ends, now)

        def record(tenant: Dict) -> Draws:
            held = open_hold(tenant, hold, now)
            if expires is not None and expires <= tenant["as_of"]:
                raise RefusedError("invalid_time")
            require_unfrozen(tenant)
            if amount is not None and amount > available(tenant):
                raise RefusedError("insufficient_credits")
            set_aside(tenant, held, amount or 0)
            held["expires"] = expires or held["expires"]
            return []

        _, replayed = self._once(who, ("hold extension", reference), (hold, more), record, now)
        return self._open_hold(who, hold, now), replayed

    def capture(
        self, who: str, hold: str, asked: tuple[int, bool, str], reference: str, now: datetime
    ) -> tuple[int, bool]:
        amount, final, overrun = asked

        def record(tenant: Dict) -> Draws:
            held = open_hold(tenant, hold, now)
            excess = amount - held["held"]
            if excess > 0:
                if overrun != "refuse":
                    require_unfrozen(tenant)
                if overrun == "refuse":
                    raise RefusedError("insufficient_credits")
                require_covered(tenant, excess, overdraft=overrun == "overdraft")
                set_aside(tenant, held, excess)
            spent = unpin(held["pins"], amount)
            take(tenant, held, "captured", amount)
            add(tenant, -amount)
            if final:
                end(tenant, held, "captured")
            return spent

        return self._once(who, ("capture", reference), (hold, asked), record, now)

    def release_part(
        self, who: str, hold: str, amount: int | None, reference: str, now: datetime
    ) -> tuple[Told, bool]:
        """Returns the hold, and true if it is a replay."""

        def record(tenant: Dict) -> Draws:
            held = open_hold(tenant, hold, now)
            part = held["held"] if amount is None else amount
            if part > held["held"]:
                raise RefusedError("insufficient_credits")
            purchased = held["held"] - sum(pinned for _, pinned in held["pins"])
            held["pins"].reverse()
            for grant, back in unpin(held["pins"], max(part - purchased, 0)):
                grant["left"] += back
            held["pins"].reverse()
            take(tenant, held, "released", part)
            if held["held"] == 0:
                end(tenant, held, "released")
            return []

        _, replayed = self._once(who, ("release", reference), (hold, amount), record, now)
        told = self.find_hold(who, hold, now)
        assert told is not None
        return told, replayed

    def find_hold(self, who: str, reference: str, now: datetime) -> Told | None:
        tenant = deepcopy(self.state["tenants"][who])
        require_known(tenant)
        expire_due(tenant, now)
        hold = tenant["holds"].get(reference)
        names = ("state", "held", "captured", "released")
        return None if hold is None else tuple(hold[name] for name in names)

    def holds(self, who: str, now: datetime) -> list[str]:
        """Returns the references of the open holds."""
        tenant = deepcopy(self.state["tenants"][who])
        require_known(tenant)
        expire_due(tenant, now)
        return [key for key, hold in tenant["holds"].items() if hold["state"] == "open"]

    def _open_hold(self, who: str, reference: str, now: datetime) -> Told:
        """The hold as it is now. It must be open. This records no expiration."""
        told = self.find_hold(who, reference, now)
        assert told is not None
        if told[0] != "open":
            raise RefusedError("hold_closed")
        return told

    def release(self, who: str, hold: str, now: datetime) -> bool:
        """Returns true if the hold was released before."""
        with self.attempt((who, now)):
            tenant = self.state["tenants"][who]
            require_open(tenant)
            expire_due(tenant, now)
            held = tenant["holds"].get(hold)
            if held is None:
                raise RefusedError("unknown_hold")
            if held["state"] not in {"open", "released"}:
                raise RefusedError("hold_closed")
            before = bool(held["state"] == "released")
            if not before:
                end(tenant, held, "released")
            return before

    def refund(
        self,
        who: str,
        asked: tuple[str, int | None, str, bool],
        reference: str,
        now: datetime,
    ) -> tuple[int, bool]:
        """The last one of *asked* is true if the cents are the total of refunds."""
        payment, cents, shortfall, is_total = asked

        def record(tenant: Dict) -> Draws:
            require_open(tenant)
            expire_due(tenant, now)
            paid = self._paid(who, payment)
            remaining = paid["cents"] - paid["returned"]
            part = remaining if cents is None else cents
            if is_total and part <= paid["cents"]:
                part = max(part - sum(paid["refunds"].values()), 0)
            elif part > remaining or part == 0:
                raise RefusedError("refund_exceeds_payment")
            after = min(paid["returned"] + part, paid["cents"])
            paid["refunds"][reference] = part
            return self._take(who, payment, after, (shortfall, ("refund", reference)), now)

        return self._once(who, ("refund", reference), asked, record)

    def refund_failed(
        self, who: str, asked: tuple[str, str], reference: str, now: datetime
    ) -> tuple[int, bool]:
        payment, refund = asked

        def record(tenant: Dict) -> Draws:
            require_open(tenant)
            paid = self._paid(who, payment)
            if refund not in paid["refunds"] and refund not in paid["failed"]:
                raise RefusedError("unknown_refund")
            if refund in paid["failed"]:
                raise RefusedError(paid["failed"][refund])
            expire_due(tenant, now)
            del paid["refunds"][refund]
            paid["failed"][refund] = reference
            return self._give(who, payment, self._due(payment), ("refund", refund), now)

        try:
            return self._once(who, ("reinstatement", reference), asked, record)
        except RefusedError as refused:
            first = self.state["tenants"][who]["keys"].get(("reinstatement", str(refused)))
            if first is None:
                raise
            return first[1], True

    def adjust(
        self, who: str, asked: tuple[int, str], reference: str, now: datetime
    ) -> tuple[int, bool]:
        def record(tenant: Dict) -> Draws:
            require_open(tenant)
            expire_due(tenant, now)
            draws = take_back(tenant, -asked[0], None)
            add(tenant, asked[0])
            return draws

        return self._once(who, ("adjustment", reference), asked, record)

    def reverse(
        self, who: str, asked: tuple[str, str, int | None], reference: str, now: datetime
    ) -> tuple[int, bool]:
        """Give back a part of the charge or the capture that *asked* names by kind and key."""
        kind, key, amount = asked

        def record(tenant: Dict) -> Draws:
            require_open(tenant)
            expire_due(tenant, now)
            if (kind, key) not in tenant["keys"]:
                raise RefusedError("unknown_charge")
            _, _, draws, charged = tenant["keys"][kind, key]
            back = tenant["given_back"].get((kind, key), 0)
            part = charged - back if amount is None else amount
            if part == 0 or back + part > charged:
                raise RefusedError("reversal_exceeds_charge")
            tenant["given_back"][kind, key] = back + part
            purchased = charged - sum(size for _, size in draws)
            returned = []
            for lot, size in [(None, purchased), *reversed(draws)]:
                skipped = min(size, back)
                back -= skipped
                returned.append((lot, min(size - skipped, part)))
                part -= returned[-1][1]
            kept = [(lot, n) for lot, n in returned if lot and n and gets_back(tenant, lot)]
            for lot, n in kept:
                lot["left"] += n
            add(tenant, returned[0][1] + sum(n for _, n in kept))
            return kept

        return self._once(who, ("reversal", reference), asked, record, now)

    def opening(
        self,
        who: str,
        purchased: int,
        grants: tuple[tuple[int, int, datetime | None, datetime], ...],
        as_of: datetime,
    ) -> tuple[int, bool]:
        """Each of *grants* is an amount, a priority, an expiry, and the moment of the grant."""

        def record(tenant: Dict) -> Draws:
            if tenant["lines"] or tenant["schedules"]:
                raise RefusedError("account_in_use")
            tenant["opened"] = min(tenant["opened"], as_of) if tenant["open"] else as_of
            tenant["open"] = True
            expire_due(tenant, as_of)
            for number, (amount, priority, expires, granted) in enumerate(grants, 1):
                if expires is not None and expires <= tenant["as_of"]:
                    raise RefusedError("invalid_time")
                asked = amount, priority, expires
                give(tenant, f"opening/{number}", asked, (granted, b"", number))
            granted_now = sum(grant["left"] for grant in tenant["grants"].values())
            spare = max(available(tenant) - granted_now, 0)
            draws = draw(tenant, max(-purchased - spare, 0))
            add(tenant, purchased)
            return draws

        return self._once(who, ("opening", "opening"), (purchased, grants, as_of), record)

    def freeze(self, who: str, reason: str | None) -> str | None:
        """Returns the reason why the tenant is frozen, or `None`."""
        tenant = self.state["tenants"][who]
        require_open(tenant)
        tenant["frozen"] = None if reason is None else tenant["frozen"] or reason
        frozen: str | None = tenant["frozen"]
        return frozen

    def limit_overdraft(self, who: str, limit: int | None) -> int | None:
        """Returns the limit."""
        tenant = self.state["tenants"][who]
        require_open(tenant)
        tenant["limit"] = limit
        return limit

    def open_dispute(
        self, who: str, payment: str, cents: int | None, reference: str, now: datetime
    ) -> tuple[str, bool]:
        """Returns the state of the dispute, and true if it is a replay."""

        def record(tenant: Dict) -> None:
            require_open(tenant)
            paid, disputes = self._paid(who, payment), self.state["disputes"]
            others = [d["cents"] for d in self._disputes(payment) if d["state"] == "open"]
            remaining = max(paid["cents"] - paid["returned"] - sum(others), 0)
            for to in paid["shares"]:
                open_account(self.state["tenants"][to], now)
            lot = tenant["grants"].get(("purchase", payment))
            if lot is not None and lot["expires"] is not None and lot["expires"] > now:
                lot["expires"] = None
            disputes[who, reference] = {
                "key": (who, reference),
                "payment": payment,
                "cents": remaining if cents is None else cents,
                "state": "open",
                "lost": None,
                "opened": (now, len(disputes)),
            }
            self._aside(payment, paid["returned"], now)

        _, replayed = self._once(who, ("dispute", reference), (payment, cents), record)
        return self.state["disputes"][who, reference]["state"], replayed

    def update_dispute(
        self, who: str, payment: str, reference: str, cents: int, now: datetime
    ) -> bool:
        """Returns true if the dispute had this amount before."""
        with self.attempt():
            dispute = self._dispute(who, payment, reference)
            before = bool(dispute["cents"] == cents)
            dispute["cents"] = cents
            if not before:
                self._change(dispute, now)
            return before

    def win_dispute(self, who: str, payment: str, reference: str, now: datetime) -> bool:
        """Returns true if the dispute was won before."""
        with self.attempt():
            dispute = self._dispute(who, payment, reference)
            before = bool(dispute["state"] == "won")
            dispute |= {"state": "won", "lost": None}
            if not before:
                self._change(dispute, now)
            return before

    def lose_dispute(
        self,
        who: str,
        asked: tuple[str, int | None, str],
        reference: str,
        now: datetime,
    ) -> tuple[int, bool]:
        payment, cents, _ = asked
        with self.attempt():
            dispute, tenant = self._dispute(who, payment, reference), self.state["tenants"][who]
            if dispute["state"] == "lost":
                if dispute["loss"] != asked:
                    raise RefusedError("idempotency_conflict")
                return dispute["balance"], True
            dispute |= {"state": "lost", "lost": cents, "loss": asked}
            draws = self._change(dispute, now)
            dispute["balance"] = posted(tenant)
            outcome = asked, dispute["balance"], draws, 0
            tenant["keys"].setdefault(("chargeback", reference), outcome)
            return dispute["balance"], False

    def _dispute(self, who: str, payment: str, reference: str) -> Dict:
        require_open(self.state["tenants"][who])
        dispute: Dict | None = self.state["disputes"].get((who, reference))
        if dispute is None or dispute["payment"] != payment:
            raise RefusedError("unknown_dispute")
        return dispute

    def _disputes(self, payment: str) -> list[Dict]:
        """The disputes of a payment, in the order of their opening."""
        found = [d for d in self.state["disputes"].values() if d["payment"] == payment]
        return sorted(found, key=lambda dispute: dispute["opened"])

    def _paid(self, who: str, payment: str) -> Dict:
        paid: Dict | None = self.state["payments"].get(payment)
        if paid is None or paid["who"] != who:
            raise RefusedError("unknown_payment")
        return paid

    def _due(self, payment: str) -> int:
        """The cents that refunds and lost disputes return, at most all."""
        paid = self.state["payments"][payment]
        lost = [d for d in self._disputes(payment) if d["state"] == "lost"]
        parts = [d["cents"] if d["lost"] is None else d["lost"] for d in lost]
        return int(min(sum(parts) + sum(paid["refunds"].values()), paid["cents"]))

    def _change(self, dispute: Dict, now: datetime) -> Draws:
        """Follow the new state of *dispute*: set aside, take or give back."""
        who, payment = dispute["key"][0], dispute["payment"]
        paid, due = self.state["payments"][payment], self._due(payment)
        loses = dispute["state"] == "lost" and "balance" not in dispute
        if dispute["state"] != "lost":
            dispute.pop("balance", None)
        self._aside(payment, paid["returned"], now)
        if due == paid["returned"] and not loses:
            return []
        expire_due(self.state["tenants"][who], now)
        if due < paid["returned"]:
            return self._give(who, payment, due, dispute["key"], now)
        return self._take(who, payment, due, (dispute["loss"][2], dispute["key"]), now)

    def _aside(self, payment: str, after: int, now: datetime, lapsed: int = 0) -> None:
        """Set aside the credits of the open disputes, once *after* is returned."""
        paid = self.state["payments"][payment]
        present = deepcopy(self.state["tenants"][paid["who"]])
        expire_due(present, now)
        place, taken = after, between(paid, paid["bought"], paid["returned"], after)
        for dispute in self._disputes(payment):
            is_open = dispute["state"] == "open"
            end = min(place + dispute["cents"], paid["cents"]) if is_open else place
            size = between(paid, paid["bought"], place, end)
            before = expired_part(present, payment, taken)
            after_it = expired_part(present, payment, taken + size)
            parts = {paid["who"]: size - (after_it - before)}
            parts |= {to: between(paid, leg, place, end) for to, leg in paid["shares"].items()}
            for to, part in parts.items():
                put_aside(self.state["tenants"][to], dispute["key"], part, now)
            place, taken = end, taken + size

    def _take(
        self, who: str, payment: str, after: int, by: tuple[str, tuple[str, str]], now: datetime
    ) -> Draws:
        shortfall, key = by
        paid, tenant = self.state["payments"][payment], self.state["tenants"][who]
        before = paid["returned"]
        whole = between(paid, paid["bought"], before, after)
        expired = expired_part(tenant, payment, whole)
        self._aside(payment, after, now)
        taken = whole - expired
        if shortfall == "clamp":
            taken = min(taken, max(available(tenant), 0))
        if shortfall == "refuse" and taken > max(available(tenant), 0):
            raise RefusedError("insufficient_credits")
        lot = tenant["grants"].get(("purchase", payment))
        draws = take_back(tenant, taken, lot)
        if lot is not None:
            lot["expired"] -= expired
            if taken > sum(part for drawn, part in draws if drawn is lot):
                lot["expires"] = None
        add(tenant, -taken)
        self._share(paid, before, after, now)
        move = {"key": key, "taken": taken, "expired": expired, "draws": draws}
        paid["moves"].append({**move, "absorbed": whole - expired - taken})
        return draws

    def _give(
        self, who: str, payment: str, after: int, key: tuple[str, str], now: datetime
    ) -> Draws:
        """Undo what was taken under *key*, until only *after* is returned."""
        paid, tenant = self.state["payments"][payment], self.state["tenants"][who]
        whole = between(paid, paid["bought"], after, paid["returned"])
        own = [move for move in paid["moves"] if move["key"] == key]
        rest, given = whole, dict[str, int]()
        for name in ("absorbed", "expired"):
            most = min(total(own, name), total(paid["moves"], name))
            given[name] = min(rest, max(most, 0))
            rest -= given[name]
        given["taken"] = min(rest, total(paid["moves"], "taken"))
        rest -= given["taken"]
        more = min(rest, total(paid["moves"], "absorbed") - given["absorbed"])
        given["absorbed"] += more
        given["expired"] += rest - more
        pinned = list[tuple[Dict, int]]()
        for grant, part in [draw for move in own for draw in move["draws"]]:
            same = [n for n, (known, _) in enumerate(pinned) if known is grant]
            if same:
                pinned[same[0]] = (grant, pinned[same[0]][1] + part)
            else:
                pinned.append((grant, part))
        plain = total(own, "taken") - sum(part for _, part in pinned)
        draws = unpin(pinned[::-1], max(given["taken"] - max(plain, 0), 0))
        for grant, part in draws:
            grant["left"] += part
        if (lot := tenant["grants"].get(("purchase", payment))) is not None:
            lot["expired"] += given["expired"]
        add(tenant, given["taken"])
        self._share(paid, paid["returned"], after, now)
        back = {name: -size for name, size in given.items()}
        undone = [(grant, -part) for grant, part in draws]
        paid["moves"].append({"key": key, "draws": undone, **back})
        self._aside(payment, after, now)
        return draws

    def _share(self, paid: Dict, before: int, after: int, now: datetime) -> None:
        """Move the shares to where *after* is returned."""
        for to, share in paid["shares"].items():
            if part := between(paid, share, before, after):
                self.state["tenants"][to]["arrivals"].append((now, -part))
        paid["returned"] = after

    def _once(
        self,
        who: str,
        key: tuple[str, str],
        request: tuple[Any, ...],
        record: Callable[[Dict], Draws | None],
        now: datetime | None = None,
    ) -> tuple[int, bool]:
        """Returns the balance right after the call, and true if it is a replay.

        A call in a scope of its own gives *now*.
        """
        with self.attempt(None if now is None else (who, now)):
            tenant = self.state["tenants"][who]
            if key in tenant["keys"]:
                asked, balance, *_ = tenant["keys"][key]
                if asked != request:
                    raise RefusedError("idempotency_conflict")
                return balance, True
            draws = record(tenant) or []
            balance = posted(tenant)
            taken = -tenant["lines"][-1][1] if tenant["lines"] else 0
            tenant["keys"][key] = (request, balance, draws, taken)
            return balance, False

    # Reads ------------------------------------------------------------------------------------

    def balance(self, who: str, now: datetime) -> tuple[int, int]:
        """Returns the posted and the held credits."""
        tenant = deepcopy(self.state["tenants"][who])
        require_known(tenant)
        expire_due(tenant, now)
        return posted(tenant), held(tenant)

    def balance_at(self, who: str, moment: datetime) -> tuple[int, int]:
        tenant = deepcopy(self.state["tenants"][who])
        require_known(tenant)
        aside = sum(
            change
            for hold in tenant["holds"].values()
            if hold["opened"] <= moment < (hold["ended"] or hold["expires"] or NEVER)
            for at, change in hold["changes"]
            if at <= moment
        ) + sum(
            part["amount"]
            for parts in tenant["disputed"].values()
            for part in parts
            if part["opened"] <= moment < (part["ended"] or datetime.max.replace(tzinfo=UTC))
        )
        expire_due(tenant, moment)
        lines = tenant["lines"] + tenant["arrivals"]
        return sum(amount for at, amount in lines if at <= moment), aside

    def statement(
        self, who: str, since: datetime | None, until: datetime | None, now: datetime
    ) -> tuple[int, list[int], int]:
        """Returns the opening balance, the amounts in the interval, and the closing balance."""
        tenant = deepcopy(self.state["tenants"][who])
        require_known(tenant)
        expire_due(tenant, now)
        lines = tenant["lines"] + tenant["arrivals"]
        first, last = since or BEGINNING, until or NEVER
        opening = sum(amount for at, amount in lines if at < first)
        within = [amount for at, amount in lines if first <= at < last]
        return opening, sorted(within), opening + sum(within)

    def actor(self, who: str, reference: str) -> str | None:
        """Returns the actor of a charge, if it is recorded and has one."""
        tenant = self.state["tenants"][who]
        require_known(tenant)
        actor: str | None = tenant["actors"].get(reference)
        return actor

    def grants(self, who: str, now: datetime) -> list[int]:
        """Returns the remainder of each grant, in spend order."""
        tenant = deepcopy(self.state["tenants"][who])
        require_known(tenant)
        expire_due(tenant, now)
        return [grant["left"] for grant in spendable(tenant) if not is_lot(grant)]

    def lots(self, who: str, now: datetime) -> list[tuple[int, datetime | None]]:
        """Returns the remainder and the expiry of each purchase that expires, in spend order."""
        tenant = deepcopy(self.state["tenants"][who])
        require_known(tenant)
        expire_due(tenant, now)
        return [(lot["left"], lot["expires"]) for lot in spendable(tenant) if is_lot(lot)]

    def forget(self, who: str) -> None:
        """Requests are compared as before. The only text of the model is the reason of a freeze."""
        tenant = self.state["tenants"][who]
        require_open(tenant)
        tenant["frozen"] = tenant["frozen"] and "erased"

    def all_grants(self, who: str, now: datetime) -> list[int]:
        """Returns the remainder of each grant, newest first."""
        tenant = deepcopy(self.state["tenants"][who])
        require_known(tenant)
        expire_due(tenant, now)
        grants = [grant for grant in tenant["grants"].values() if not is_lot(grant)]
        return [grant["left"] for grant in reversed(grants)]

    def draws(self, who: str, kind: str, reference: str) -> list[tuple[int, bool]] | None:
        """Returns the parts that a transaction drew, if it was recorded. True for a purchase's."""
        tenant = self.state["tenants"][who]
        require_known(tenant)
        recorded = tenant["keys"].get((kind, reference))
        if recorded is None or (kind == "grant" and reference not in tenant["grants"]):
            return None
        return [(part, is_lot(lot)) for lot, part in recorded[2]]

    def due(self, now: datetime) -> int:
        """Returns the number of tenants with expirations due."""
        return sum(
            bool(due(tenant, now)) for tenant in self.state["tenants"].values() if tenant["open"]
        )

    def sweep(self, now: datetime) -> None:
        for who in self.state["tenants"]:
            self.catch_up(who, now)

    def catch_up(self, who: str, now: datetime) -> None:
        """Post all that is due. The tenant's time moves to the last due moment, no further."""
        tenant = self.state["tenants"][who]
        if instants := due(tenant, max(tenant["as_of"], now)):
            expire_due(tenant, max(instants))
            self.catch_up(who, now)


def open_account(tenant: Dict, now: datetime) -> None:
    if not tenant["open"]:
        tenant["open"], tenant["opened"] = True, now


def require_open(tenant: Dict) -> None:
    if not tenant["open"]:
        raise RefusedError("unknown_account")


def require_known(tenant: Dict) -> None:
    """Reads answer for a tenant that has only earned shares."""
    if not tenant["arrivals"]:
        require_open(tenant)


def known_grant(tenant: Dict, grant: str) -> Dict:
    if grant not in tenant["grants"]:
        raise RefusedError("unknown_grant")
    found: Dict = tenant["grants"][grant]
    return found


def give(
    tenant: Dict,
    reference: str | tuple[str, str],
    asked: tuple[int, int, datetime | None],
    granted: tuple[datetime, bytes, int],
    by: datetime = NEVER,
) -> Draws:
    """Grant credits, or sell some that expire.

    Returns the part that repaid a debt, as of the arrivals by a moment.
    """
    amount, priority, expires = asked
    later = sum(arrived for at, arrived in tenant["arrivals"] if at > by)
    lots = sum(grant["left"] for grant in tenant["grants"].values())
    repaid = min(amount, max(lots + later - available(tenant) - sum(disputed(tenant)), 0))
    grant = {
        "left": amount - repaid,
        "priority": priority,
        "expires": expires,
        "granted": granted,
        "expired": 0,
    }
    tenant["grants"][reference] = grant
    add(tenant, amount)
    return [(grant, repaid)] if repaid else []


def void(tenant: Dict, grant: Dict) -> None:
    add(tenant, -grant["left"])
    grant["left"] = 0
    grant["expires"] = min(grant["expires"] or NEVER, tenant["as_of"])


def wait(
    tenant: Dict, asked: tuple[int, int, datetime | None], reference: str, begins: datetime
) -> None:
    """Keep a single grant that begins later."""
    amount, priority, expires = asked
    tenant["schedules"][f"once {reference}"] = {
        "key": reference,
        "amount": amount,
        "priority": priority,
        "expires": expires,
        "every": "once",
        "zone": "UTC",
        "until": None,
        "begins": begins,
        "first": 0,
        "number": 0,
        "next": begins,
        "ended": None,
    }


def known_schedule(tenant: Dict, schedule_id: str) -> Dict:
    if schedule_id not in tenant["schedules"]:
        raise RefusedError("unknown_schedule")
    found: Dict = tenant["schedules"][schedule_id]
    return found


def following(schedule: Dict) -> datetime | None:
    """The moment at which the next period begins."""
    at = begin(schedule["begins"], schedule["every"], schedule["zone"], schedule["number"])
    ends = at is None or (schedule["until"] is not None and at >= schedule["until"])
    return None if ends else at


def end_one(tenant: Dict, schedule: Dict) -> None:
    schedule["next"], schedule["ended"] = None, schedule["ended"] or tenant["as_of"]


def parts_of(schedule: Dict, number: int) -> list[tuple[str, int, datetime | None]]:
    """The key, the credits and the end of each grant of a period."""
    key, amount, longer = f"{schedule['id']} {number}", schedule["amount"], schedule["periods"]
    carried = min(schedule["cap"], amount)
    ends, later = (
        begin(schedule["begins"], schedule["every"], schedule["zone"], number + lives)
        for lives in (1, 1 + longer)
    )
    if carried in {0, amount}:
        return [(key, amount, later if carried else ends)]
    return [(key, amount - carried, ends), (f"{key} carried", carried, later)]


def replace(tenant: Dict, schedule: Dict) -> None:
    """End a schedule, and void the grants of its latest period."""
    end_one(tenant, schedule)
    if schedule["number"] > schedule["first"]:
        for key, _, _ in parts_of(schedule, schedule["number"] - 1):
            expires = tenant["grants"][key]["expires"]
            if expires is None or expires > tenant["as_of"]:
                void(tenant, tenant["grants"][key])


def start(tenant: Dict, schedule: Dict) -> None:
    """Make the grants of the next period."""
    now, priority = tenant["as_of"], schedule["priority"]
    if schedule["every"] == "once":
        asked = schedule["amount"], priority, schedule["expires"]
        order = (now, b"", len(tenant["grants"]))
        key = "grant", schedule["key"]
        request, balance, _, taken = tenant["keys"][key]
        draws = give(tenant, schedule["key"], asked, order, now)
        tenant["keys"][key] = (request, balance, draws, taken)
    else:
        for name, amount, expires in parts_of(schedule, schedule["number"]):
            order = (now, sha256(name.encode()).digest()[:16], 0)
            give(tenant, name, (amount, priority, expires), order, now)
    schedule["number"] += 1
    schedule["next"] = following(schedule)


def require_unfrozen(tenant: Dict) -> None:
    if tenant["frozen"] is not None:
        raise RefusedError("account_frozen")


def require_covered(tenant: Dict, amount: int, *, overdraft: bool) -> None:
    """The available credits cover *amount*, together with an overdraft if it is allowed."""
    limit = tenant["limit"] if overdraft else 0
    if limit is not None and amount > max(available(tenant) + limit, 0):
        raise RefusedError("insufficient_credits")


def posted(tenant: Dict) -> int:
    return sum(amount for _, amount in tenant["lines"] + tenant["arrivals"])


def held(tenant: Dict) -> int:
    return sum([hold["held"] for hold in tenant["holds"].values()] + disputed(tenant))


def disputed(tenant: Dict) -> list[int]:
    """The credits that open disputes set aside."""
    parts = [part for parts in tenant["disputed"].values() for part in parts]
    return [part["amount"] for part in parts if part["ended"] is None]


def put_aside(tenant: Dict, key: tuple[str, str], amount: int, now: datetime) -> None:
    """Set aside *amount* for a dispute, in place of the present part."""
    parts = tenant["disputed"].setdefault(key, [])
    present = parts[-1] if parts and parts[-1]["ended"] is None else None
    if amount == (present["amount"] if present else 0):
        return
    if present:
        present["ended"] = max(present["opened"], now)
    if amount:
        parts.append({"amount": amount, "opened": now, "ended": None})


def between(paid: Dict, leg: int, before: int, after: int) -> int:
    """The part of *leg* between two returned amounts."""
    return int(leg * after // paid["cents"] - leg * before // paid["cents"])


def total(moves: list[Dict], name: str) -> int:
    """The sum of a part of *moves*."""
    return sum(int(move[name]) for move in moves)


def available(tenant: Dict) -> int:
    return posted(tenant) - held(tenant)


def add(tenant: Dict, amount: int) -> None:
    tenant["lines"].append((tenant["as_of"], amount))


def is_lot(grant: Dict) -> bool:
    return bool(grant["priority"] == AFTER_GRANTS)


def expired_part(tenant: Dict, payment: str, wanted: int) -> int:
    """The part of *wanted* that has expired, after the credits that are left."""
    lot = tenant["grants"].get(("purchase", payment))
    return 0 if lot is None else min(max(wanted - lot["left"], 0), lot["expired"])


def take_back(tenant: Dict, wanted: int, own: Dict | None) -> Draws:
    """Take from *own*, then what is neither granted nor expires, then other lots, then grants."""
    earned = max(available(tenant) - sum(g["left"] for g in tenant["grants"].values()), 0)
    draws = [(own, min(own["left"], wanted))] if own is not None else []
    rest = max(wanted - sum(part for _, part in draws) - earned, 0)
    others = [grant for grant in spendable(tenant) if grant is not own]
    lots = [grant for grant in reversed(others) if is_lot(grant)]
    for grant in [*lots, *(grant for grant in others if not is_lot(grant))]:
        draws.append((grant, min(grant["left"], rest)))
        rest -= draws[-1][1]
    draws = [(grant, part) for grant, part in draws if part > 0]
    for grant, part in draws:
        grant["left"] -= part
    return draws


def spendable(tenant: Dict) -> list[Dict]:
    left = [grant for grant in tenant["grants"].values() if grant["left"]]
    return sorted(left, key=lambda g: (g["priority"], g["expires"] or NEVER, g["granted"]))


def gets_back(tenant: Dict, grant: Dict) -> bool:
    """True if a reversal gives credits back to *grant*. Those of a purchase expire once more."""
    return is_lot(grant) or bool((grant["expires"] or NEVER) > tenant["as_of"])


def draw(tenant: Dict, amount: int) -> Draws:
    """Take up to *amount* from the grants, in spend order. Returns the part of each grant."""
    taken = []
    for grant in spendable(tenant):
        part = min(grant["left"], amount)
        if part:
            grant["left"] -= part
            amount -= part
            taken.append((grant, part))
    return taken


def ending(ends: Ends, now: datetime) -> datetime | None:
    """The moment of the expiry that a caller gave as a moment or as a lifetime."""
    return now + ends if isinstance(ends, timedelta) else ends


def open_hold(tenant: Dict, reference: str, now: datetime) -> Dict:
    """The open hold, after the expirations that were due."""
    require_open(tenant)
    expire_due(tenant, now)
    hold: Dict | None = tenant["holds"].get(reference)
    if hold is None:
        raise RefusedError("unknown_hold")
    if hold["state"] != "open":
        raise RefusedError("hold_closed")
    return hold


def set_aside(tenant: Dict, hold: Dict, amount: int) -> None:
    """Add *amount* to an open hold, from the grants first. Each grant is pinned once."""
    for grant, part in draw(tenant, amount):
        for place, (pinned, before) in enumerate(hold["pins"]):
            if pinned is grant:
                hold["pins"][place] = (grant, before + part)
                break
        else:
            hold["pins"].append((grant, part))
    hold["held"] += amount
    hold["changes"].append((tenant["as_of"], amount))


def take(tenant: Dict, hold: Dict, name: str, amount: int) -> None:
    """Move *amount* from the held credits to the captured or the released ones."""
    hold["held"] -= amount
    hold[name] += amount
    hold["changes"].append((tenant["as_of"], -amount))


def unpin(pins: Draws, amount: int) -> Draws:
    """Take up to *amount* of *pins*, in order. Returns the parts."""
    taken, left = [], []
    for grant, pinned in pins:
        part = min(pinned, amount)
        amount -= part
        if part:
            taken.append((grant, part))
        if pinned > part:
            left.append((grant, pinned - part))
    pins[:] = left
    return taken


def end(tenant: Dict, hold: Dict, state: str) -> None:
    """End an open hold. All that it holds is available again."""
    hold["state"], hold["ended"] = state, max(hold["opened"], tenant["as_of"])
    for grant, pinned in hold["pins"]:
        grant["left"] += pinned
    hold["pins"].clear()
    take(tenant, hold, "released", hold["held"])


def due(tenant: Dict, moment: datetime) -> list[datetime]:
    ends = [hold["expires"] for hold in tenant["holds"].values() if hold["state"] == "open"]
    lapses = [grant["expires"] for grant in spendable(tenant)]
    starts = [schedule["next"] for schedule in tenant["schedules"].values()]
    return [
        instant for instant in ends + lapses + starts if instant is not None and instant <= moment
    ]


def expire_due(tenant: Dict, now: datetime) -> None:
    """Expire and start all that is due, in order, and move the tenant's time to *now*."""
    present = max(tenant["as_of"], now)
    while instants := due(tenant, present):
        tenant["as_of"] = max(tenant["as_of"], min(instants))
        for hold in tenant["holds"].values():
            if hold["state"] == "open" and hold["expires"] and hold["expires"] <= tenant["as_of"]:
                end(tenant, hold, "expired")
                hold["ended"] = hold["expires"]
        for grant in spendable(tenant):
            if grant["expires"] and grant["expires"] <= tenant["as_of"]:
                add(tenant, -grant["left"])
                grant["expired"] += grant["left"]
                grant["left"] = 0
        for schedule in tenant["schedules"].values():
            if schedule["next"] is not None and schedule["next"] <= tenant["as_of"]:
                start(tenant, schedule)
    tenant["as_of"] = present
