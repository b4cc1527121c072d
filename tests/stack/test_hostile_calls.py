"""Hostile arguments of every function, in a database that is not a test database.

A named rule or outcome refuses each, and no row is written. An accepted call writes a valid record:
the library reads it back, and `verify` reports no violation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from attrs import evolve, frozen
from sqlalchemy.exc import DBAPIError

from cogni_billing import TenantId
from cogni_billing.adapters.postgres.operations.sandbox import Sandbox
from cogni_billing.domain.identity import ADJUSTMENTS, BREAKAGE, ISSUANCE, SHORTFALL, USAGE
from cogni_billing.testing.base import ALICE, BOB
from stack.conftest import Database, created, opened
from stack.support.attacks import (
    CALLERS,
    NAMES,
    SYSTEM,
    VALID,
    Asked,
    Ids,
    adjustment,
    ask,
    call,
    capture,
    charge,
    dispute,
    dump,
    ending,
    expiring,
    extending,
    extension,
    grant,
    hold,
    intent,
    losing,
    losing_by,
    now,
    opening,
    part,
    payment_of,
    planned,
    prepared,
    purchase,
    refund,
    refund_of_expired,
    reinstatement,
    release,
    reversal,
    rule_of,
    step,
    told,
    undone,
    void,
    winning,
)

Make = Callable[..., Asked]
STRANGER = UUID(int=2**100)


@pytest.fixture(scope="module")
def kept(billing_database: Sandbox) -> Iterator[Database]:
    """Create a database that refuses moments far from its own clock."""
    with created(billing_database) as clone:
        clone.install(test_database=False)
        with opened(clone) as database:
            yield database


@pytest.fixture(scope="module")
def known(kept: Database) -> dict[TenantId, Ids]:
    return prepared(kept)


@frozen
class Door:
    """A function, its valid argument to be altered, and the role that calls it."""

    function: str
    make: Make
    role: str = "app_user"
    many: bool = False
    tenant: TenantId = ALICE

    def asked(self, ids: Ids, altered: dict[str, Any]) -> Asked:
        made = self.make(ids, **altered)
        return [made] if self.many else made


DOORS = {
    "charge": Door("spend", charge, many=True),
    "capture": Door("spend", capture, many=True),
    "purchase": Door("mint", purchase, many=True),
    "expiring": Door("mint", expiring, many=True),
    "grant": Door("mint", grant, many=True),
    "reversal": Door("mint", reversal, many=True),
    "refund": Door("reverse", refund, "app_service", many=True),
    "expired_refund": Door("reverse", refund_of_expired, "app_service", many=True),
    "reinstatement": Door("reverse", reinstatement, "app_service", many=True),
    "chargeback": Door("settle_dispute", losing_by, "app_service"),
    "losing": Door("settle_dispute", losing, "app_service"),
    "closing": Door("settle_dispute", winning, "app_service"),
    "adjustment": Door("adjust", adjustment, "app_service", many=True),
    "hold": Door("hold", hold),
    "release": Door("release", release),
    "void": Door("void_grant", void),
    "extension": Door("extend_grant", extension),
    "planned": Door("schedule", planned),
    "ending": Door("end_schedule", ending),
    "extending": Door("extend", extending),
    "part": Door("release_part", part),
    "intent": Door("create_attempt", intent),
    "step": Door("record_attempt", step),
    "dispute": Door("settle_dispute", dispute, "app_service"),
    "expire_due": Door("expire_due", lambda ids, **altered: {"at": ids.now} | altered),
    "opening": Door("open_account", lambda ids, **altered: {"at": ids.now} | altered),
    "lock": Door("lock", lambda ids, **altered: VALID["lock"](ids) | altered, "app_service"),
    "freeze": Door("freeze", lambda ids, **altered: VALID["freeze"](ids) | altered, "app_service"),
    "brought": Door("opening", opening, "app_service", tenant=TenantId(STRANGER)),
    "limit": Door(
        "limit_overdraft",
        lambda ids, **altered: VALID["limit_overdraft"](ids) | altered,
        "app_service",
    ),
    "event": Door("keep_event", told, "app_service"),
    "check": Door("begin_check", lambda ids, **altered: VALID["begin_check"](ids) | altered),
}
MOVEMENTS = (
    *("charge", "capture", "purchase", "grant", "refund", "chargeback", "adjustment"),
    *("reversal", "reinstatement"),
)
SUBJECTS = ("capture", "chargeback", "reinstatement")
METADATA = {
    "missing": None,
    "no object": "[]",
    "no JSON": "{",
    "a NUL": '{"a":"\\u0000"}',
    "a NUL in a key": '{"\\u0000":1}',
    "half a surrogate": '{"a":"\\ud800"}',
    "the other half": '{"a":"\\udc00"}',
    "nine levels": '{"a":' * 8 + "{}" + "}" * 8,
    "nine levels of lists": '{"a":' + "[" * 8 + "]" * 8 + "}",
    "nine levels under a key that comes again": '{"a":' + "[" * 8 + "]" * 8 + ',"a":1}',
    "300 levels": '{"a":' * 300 + "1" + "}" * 300,
    "100 000 levels": '{"a":' + "[" * 100_000,
    "an infinite number": '{"a":1e400}',
    "a number of 5000 digits": '{"a":%s}' % ("9" * 5000),
    "a number after an escape": '{"a":"\\\\\\"","b":-1e400}',
    "not a number": '{"a":NaN}',
    "too many bytes": '{"a":"%s"}' % ("x" * 16384),
}
REFERENCES = {
    "missing": None,
    "empty": "",
    "a space": "a b",
    "a line": "a\n",
    "256 bytes": "a" * 256,
    "é": "é",
}
AMOUNTS: dict[str, object] = {
    "missing": None,
    "not a number": "NaN",
    "infinite": "Infinity",
    "half": "0.5",
    "padded": "5.0",
    "10^40": 10**40,
    "-10^40": -(10**40),
}
FAR = {
    "missing": None,
    "infinite": "infinity",
    "infinitely long ago": "-infinity",
    "the epoch": "epoch",
    "too early": "ago",
    "too late": "ahead",
    "year 10000": "10000-01-01",
    "before Christ": "0044-03-15 BC",
}


def moment(ids: Ids, given: object) -> object:
    """Return moments that are six minutes from the server's clock."""
    away = {"ago": -timedelta(minutes=6), "ahead": timedelta(minutes=6)}
    return now() + away[given] if isinstance(given, str) and given in away else given


Forgery = tuple[str, dict[str, Any], str]


def forged_records() -> Iterator[tuple[str, Forgery]]:
    """Yield forgeries of the fields of every record: metadata, reference and moment."""
    names = {"step": "found", "event": "facts"}
    for door in (*MOVEMENTS, "hold", "void", "planned", "intent", "step", "dispute", "event"):
        name = names.get(door, "metadata")
        for title, value in METADATA.items():
            yield f"{door}: metadata, {title}", (door, {name: value}, "metadata_is_a_small_object")
    for door in (
        *MOVEMENTS,
        "hold",
        "void",
        "extension",
        "planned",
        "extending",
        "part",
        "dispute",
    ):
        for title, value in REFERENCES.items():
            yield (
                f"{door}: reference, {title}",
                (door, {"reference": value}, "references_are_visible_ascii"),
            )
    for door in DOORS:
        names = {"intent": "created_at", "planned": "made_at"}
        names |= dict.fromkeys(("check", "brought", "event"), "now")
        name = names.get(door, "at")
        if door in ("opening", "limit"):
            continue
        for title, value in FAR.items():
            yield f"{door}: moment, {title}", (door, {name: value}, "moments_are_near_the_servers")


def forged_movements() -> Iterator[tuple[str, Forgery]]:
    """Yield forgeries of movements: amounts, kinds, ids and subjects."""
    for door in (*MOVEMENTS, "hold"):
        for title, value in AMOUNTS.items():
            yield (
                f"{door}: amount, {title}",
                (door, {"amount": value}, "amounts_are_whole_and_bounded"),
            )
    for door in MOVEMENTS:
        kinds = {*MOVEMENTS, "expiry", "void"}
        own = {k for k in kinds if DOORS.get(k) and DOORS[k].function == DOORS[door].function}
        own |= {"reinstatement"} if door == "chargeback" else set()
        for kind in sorted({*kinds, "gift", "CHARGE", ""} - own):
            yield f"{door}: kind {kind!r}", (door, {"kind": kind}, "transactions_kind_known")
        yield f"{door}: no kind", (door, {"kind": None}, "transactions_kind_known")
        yield f"{door}: no id", (door, {"id": None}, "transactions_have_an_id")
        if door == "adjustment":
            yield (
                f"{door}: subject",
                (
                    door,
                    {"subject": STRANGER},
                    "transactions_have_their_subject",
                ),
            )
            continue
        way = 5 if DOORS[door].function != "mint" and door != "reinstatement" else -5
        yield f"{door}: other way", (door, {"amount": way}, "transactions_raise_or_lower")
        subject = {"subject": None if door in SUBJECTS else STRANGER}
        yield f"{door}: subject", (door, subject, "transactions_have_their_subject")


def forged_shares(door: str) -> Iterator[tuple[str, Forgery]]:
    sign = 1 if door == "purchase" else -1
    many = [str(UUID(int=2**90 + n)) for n in range(5000)]
    for name, beneficiaries, shares in (
        ("none", [], []),
        ("no beneficiaries", None, [sign]),
        ("no amounts", [STRANGER], None),
        ("a NULL", [STRANGER, None], [sign, sign]),
        ("a NULL amount", [STRANGER], [None]),
        ("more of one", [STRANGER], [sign, sign]),
        ("a table", [[STRANGER, BOB]], [[sign, sign]]),
        ("a table of amounts", [STRANGER, BOB], [[sign, sign]]),
        ("other bounds", f"[2:2]={{{STRANGER}}}", [sign]),
        ("other bounds of amounts", [STRANGER], f"[0:0]={{{sign}}}"),
        ("twice the same", [STRANGER, STRANGER], [sign, sign]),
        ("oneself", [ALICE], [sign]),
        ("nil", [UUID(int=0)], [sign]),
        ("the system tenant's id", [SYSTEM], [sign]),
        *((f"{name}", [account], [sign]) for name, account in SYSTEMS.items()),
        ("33", many[:33], [sign] * 33),
        ("thousands", many, [sign] * len(many)),
        ("taken", [STRANGER], [-sign]),
        ("not a number", [STRANGER], ["NaN"]),
        ("infinite", [STRANGER], ["Infinity"]),
        ("half", [STRANGER], [f"{sign * 0.5}"]),
        ("padded", [STRANGER], [f"{sign}.0"]),
        ("10^40", [STRANGER], [sign * 10**40]),
    ):
        altered = {"beneficiaries": beneficiaries, "shares": shares}
        yield f"{door}: shares, {name}", (door, altered, "shares_are_complete")


SYSTEMS = {
    "issuance": ISSUANCE,
    "usage": USAGE,
    "breakage": BREAKAGE,
    "shortfall": SHORTFALL,
    "adjustments": ADJUSTMENTS,
}
# Each line: the doors, the rule that refuses, and an object of altered fields for each forgery.
OTHERS = r"""
limit amounts_are_whole_and_bounded {"limit":-1} {"limit":"NaN"} {"limit":"0.5"} {"limit":"5.0"}
    {"limit":"Infinity"} {"limit":10000000000000000000000000000000000000000}
grant,adjustment,hold,extending,part amounts_are_whole_and_bounded {"amount":0}
extending,part amounts_are_whole_and_bounded {"id":null} {"amount":-1} {"amount":"NaN"}
    {"amount":"0.5"} {"amount":"5.0"} {"amount":"Infinity"}
    {"amount":10000000000000000000000000000000000000000}
charge transactions_fit_their_kind {"at_most":6} {"at_most":4} {"at_most":"NaN"} {"at_most":-5}
    {"at_most":5,"overdraft":true}
capture,purchase,grant,chargeback,reinstatement transactions_fit_their_kind {"at_most":5}
refund reversals_follow_one_another {"at_most":5} {"at_most":0,"part":0} {"at_most":"0.05"}
    {"at_most":"0.10","part":null} {"at_most":"NaN"} {"part":0,"at_most":"0.10"}
capture,purchase,grant,refund,adjustment transactions_fit_their_kind {"used_at":"2026-01-01"}
charge untimely {"used_at":"2020-01-01"} {"used_at":"infinity"} {"used_at":"-infinity"}
    {"used_at":"2040-01-01"} {"used_at":"ago"} {"used_at":"ahead"}
charge transactions_fit_their_kind {"paid":1} {"paid_unit":"USD"} {"policy":"{}"} {"source":"a"}
    {"priority":1} {"expires_at":"2040-01-01"} {"expires_in":1} {"returned":1} {"returned_total":1}
    {"part":1} {"shortfall":"debt"} {"final":false} {"overrun":"available"}
capture captures_have_their_rules {"final":true} {"overrun":"refuse"} {"overrun":"gift"}
charge,purchase,adjustment transactions_fit_their_kind {"absorbed":5}
charge,purchase,grant,refund transactions_fit_their_kind {"reason":"billed twice"}
charge,capture,purchase,grant,refund,adjustment actors_are_visible_ascii {"actor":""}
    {"actor":"a b"} {"actor":"\u0001"} {"actor":"é"}
adjustment reasons_are_printable {"reason":null}
adjustment,freeze reasons_are_printable {"reason":""} {"reason":"  "}
    {"reason":"a\nb"} {"reason":"\u0001"} {"reason":"\u007f"} {"reason":"\u0085"}
    {"reason":"\u202ea"} {"reason":"a\u2028b"} {"reason":"\ufeff"}
purchase transactions_fit_their_kind {"expires_at":"2020-01-01"} {"expires_in":1}
    {"expires_at":"2040-01-01"} {"expires_at":"2040-01-01","expires_in":1} {"lapsed":1}
expiring transactions_fit_their_kind {"expires_in":null} {"expires_in":0} {"expires_in":-1}
    {"expires_at":"infinity"} {"expires_at":null} {"expires_at":"2020-01-01"} {"source":"a"}
    {"priority":1} {"expires_at":"2020-01-01","expires_in":null}
charge,grant,adjustment transactions_fit_their_kind {"lapsed":5} {"lapsed":0}
reversal reversals_give_back_a_part {"lapsed":1} {"lapsed":0}
refund reversals_follow_one_another {"lapsed":0} {"lapsed":1} {"lapsed":-1} {"lapsed":"NaN"}
    {"lapsed":"0.5"} {"lapsed":1000000,"amount":0}
expired_refund reversals_follow_one_another {"lapsed":null} {"lapsed":999999} {"lapsed":1000001}
    {"lapsed":"NaN"} {"lapsed":null,"amount":-1000000} {"lapsed":999999,"amount":-1}
    {"lapsed":null,"absorbed":1000000} {"lapsed":999999,"absorbed":1} {"absorbed":1}
grant transactions_fit_their_kind {"absorbed":"NaN"}
charge,grant shares_are_complete {"beneficiaries":["Bob"],"shares":[1]}
charge,adjustment reversals_name_a_purchase {"reverses":"stranger"}
refund,reversal reversals_name_a_purchase {"reverses":null} {"charge":"run-1"}
charge,grant,refund reversals_name_a_purchase {"charge":"run-1","reverses":"her charge"}
refund transactions_fit_their_kind {"charge":"run-1","reverses":null}
reversal transactions_fit_their_kind {"charge":"a b","reverses":null}
reversal reversals_give_back_a_part {"amount":1} {"part":0} {"part":-1} {"part":"0.5"}
    {"part":"NaN"} {"part":"Infinity"} {"returned":1} {"returned_total":1} {"shortfall":"debt"}
    {"absorbed":0} {"absorbed":1} {"reason":"a\nb"} {"reason":""}
reversal unknown_charge {"reverses":"stranger"} {"reverses":"hers"} {"reverses":"his charge"}
    {"charge":"run-9","reverses":null} {"charge":"stripe:pi_1","reverses":null}
reversal exceeds_charge {"part":4} {"part":1e30}
purchase purchases_credit_what_was_paid {"paid":null,"paid_unit":"USD"}
    {"paid":"0.01","paid_unit":null} {"paid":"0.01","paid_unit":"EUR"}
    {"paid":"0.01","paid_unit":"CREDIT"} {"paid":"0.010","paid_unit":"USD"}
    {"paid":"0.0000001","paid_unit":"USDC"} {"paid":"NaN","paid_unit":"USD"}
    {"paid":"Infinity","paid_unit":"USD"} {"paid":"0","paid_unit":"USD"}
    {"paid":"-0.01","paid_unit":"USD"} {"paid":"0.02","paid_unit":"USD"}
    {"paid":10000000000000000000000000000000000000000,"paid_unit":"USD"} {"amount":100001}
    {"amount":0,"shares":[25]} {"reference":"pi_9"} {"reference":":pi_9"} {"reference":"stripe:"}
purchase policies_are_small_objects {"policy":null} {"policy":"[]"}
    {"policy":"{\"a\":\"\\u0000\"}"}
purchase claimed {"reference":"his payment"}
charge,purchase,grant,adjustment ids_are_given_once {"id":"hers"}
hold ids_are_given_once {"id":"her hold"}
charge,purchase,hold,extending,part,dispute 22P05 {"reference":"\u0000"}
grant grants_have_their_terms {"source":null} {"source":"two words"} {"source":""}
    {"priority":null} {"priority":-1} {"priority":1000001} {"expires_at":"infinity"}
    {"expires_at":"9999-01-01"} {"expires_in":1} {"expires_at":null,"expires_in":1}
    {"expires_in":-1} {"effective_from":"infinity"} {"effective_from":"1969-01-01"}
    {"effective_from":"2999-01-01"} {"expires_at":"2999-01-01","effective_from":"2999-01-01"}
charge,purchase transactions_fit_their_kind {"effective_from":"2999-01-01"}
planned schedules_have_their_terms {"id":null} {"amount":0} {"amount":-1} {"amount":"0.5"}
    {"amount":"NaN"} {"amount":"Infinity"} {"amount":null} {"source":null} {"source":"two words"}
    {"priority":null} {"priority":-1} {"priority":1000001} {"every":null} {"every":"once"}
    {"every":"1 month"} {"zone":null} {"zone":""} {"zone":"a b"} {"given_anchor":"infinity"}
    {"given_anchor":"9999-01-01"} {"given_anchor":"1969-01-01"} {"until":"infinity"}
    {"until":"9999-01-01"} {"until":"-infinity"} {"until":"1969-01-01"} {"amount":1e39}
    {"cap":1e39} {"cap":0} {"cap":-1} {"cap":"0.5"} {"cap":"NaN"} {"cap":null}
    {"carries":0} {"carries":1001} {"carries":null} {"actor":""} {"actor":"two words"}
planned unknown_zone {"zone":"Mars/Olympus"} {"zone":"A100B-60,J5,J40"} {"zone":"+05:30"}
    {"zone":"EUROPE/berlin"} {"zone":"posix/Europe/Berlin"} {"zone":"posixrules"}
grant amounts_are_whole_and_bounded
    {"amount":1e30,"effective_from":"2999-01-01","expires_at":null}
planned unknown_schedule {"replaces":"his plan"} {"replaces":"hers"}
planned ids_are_given_once {"id":"her plan"}
ending unknown_schedule {"id":"his plan"} {"id":"hers"} {"id":null}
grant expired {"expires_at":"2020-01-01"}
void transactions_have_an_id {"id":null}
void ids_are_given_once {"id":"hers"}
void reasons_are_printable {"reason":""} {"reason":"  "} {"reason":"a\nb"} {"reason":"\u202ea"}
    {"reason":"\u0085"}
void actors_are_visible_ascii {"actor":""} {"actor":"two words"}
void,extension unknown_grant {"grant_id":"his grant"} {"grant_id":"hers"} {"grant_id":null}
extension grants_have_their_terms {"expires_at":null} {"expires_at":"infinity"}
    {"expires_at":"9999-01-01"} {"expires_in":1} {"expires_in":-1}
extension not_later {"expires_at":"2020-01-01"}
charge insufficient {"amount":-10000000000}
hold insufficient {"amount":10000000000}
capture insufficient {"amount":-8} {"amount":-8,"final":false}
    {"amount":-10000000000,"overrun":"available"}
extending insufficient {"amount":10000000000}
part insufficient {"amount":8}
capture unknown_hold {"subject":"his hold"} {"subject":"her dispute"}
release unknown_hold {"id":"his hold"} {"id":"her dispute"} {"id":null}
extending,part unknown_hold {"hold":"his hold"} {"hold":"her dispute"} {"hold":null}
hold expired {"expires_at":"2020-01-01","ends_at":"2020-01-01"}
extending expired {"expires_at":"2020-01-01"}
hold holds_end {"expires_in":0} {"expires_in":-1} {"expires_in":5}
extending holds_end
    {"expires_in":0} {"expires_in":5} {"expires_at":"9999-01-01"} {"expires_at":"infinity"}
    {"amount":null,"expires_at":null}
hold holds_end {"ends_at":"2040-01-01"} {"expires_at":null} {"ends_at":null}
    {"expires_at":"9999-06-01","ends_at":"9999-06-01"}
hold amounts_are_whole_and_bounded {"id":null}
refund reversals_follow_one_another {"reverses":"stranger"} {"reverses":"her charge"}
    {"reverses":"his purchase"} {"returned":null} {"returned":0,"returned_total":0,"part":0}
    {"returned":"1.01","returned_total":"1.01","part":null}
    {"returned":"0.001","returned_total":"0.001","part":null}
    {"returned":"NaN","returned_total":"NaN","part":null} {"returned_total":"0.50"} {"part":"0.20"}
    {"shortfall":null} {"shortfall":"gift"} {"absorbed":null} {"absorbed":-1} {"absorbed":"NaN"}
    {"absorbed":"0.5"} {"beneficiaries":["stranger"]} {"beneficiaries":null,"shares":null}
    {"amount":-1000001} {"amount":-1e30} {"shares":[-500001]} {"shares":[-1e30]} {"absorbed":1}
    {"amount":0} {"amount":0,"absorbed":1e39} {"amount":-999999}
refund reversals_follow_one_another {"shortfall":"refuse","amount":-999999,"absorbed":1}
chargeback reversals_follow_one_another {"shortfall":"refuse"} {"subject":"stranger"}
    {"returned":"0.60","returned_total":"0.60"} {"part":"0.40"}
reinstatement reversals_follow_one_another {"reverses":"stranger"} {"reverses":"her charge"}
    {"reverses":"hers"} {"reverses":"his purchase"} {"subject":"stranger"} {"subject":"her dispute"}
    {"subject":"her charge"} {"amount":5} {"returned":0,"returned_total":"0.10"} {"returned":null}
    {"returned":"0.05","returned_total":"0.05"} {"returned":"NaN"} {"returned_total":"NaN"}
    {"returned":"-0.10","returned_total":"0.20"} {"absorbed":5} {"lapsed":5} {"part":"0.10"}
    {"shortfall":"debt"}
dispute disputes_are_of_a_purchase {"id":null} {"payment":"his payment"} {"payment":"run-1"}
    {"disputed":"0.51","part":null} {"disputed":0,"part":null} {"disputed":"NaN","part":null}
    {"disputed":"NaN","part":"NaN"} {"disputed":"0.001","part":"0.001"} {"disputed":-1,"part":-1}
    {"disputed":0,"part":0} {"disputed":"0.20"} {"part":"0.20"} {"state":"won"} {"state":null}
    {"state":"gift"} {"lost":"0.10"} {"chargeback":"stranger"} {"opens":false} {"opens":null}
closing disputes_are_of_a_purchase {"id":"stranger"} {"reference":"dp_9"} {"payment":"his payment"}
    {"disputed":-1} {"disputed":"NaN"} {"disputed":"0.001"} {"disputed":null} {"lost":"0.10"}
    {"chargeback":"her charge"} {"state":"lost"} {"state":"lost","chargeback":"her charge"}
losing disputes_are_of_a_purchase {"movement":null} {"chargeback":"stranger"} {"lost":0}
    {"lost":"NaN"} {"lost":"0.001"}
losing reversals_follow_one_another {"lost":"0.40"} {"state":"won","chargeback":null}
lock tenants_are_not_reserved {"tenants":["00000000-0000-0000-0000-000000000000"]}
    {"tenants":["00000000-0000-4000-b000-000000000001"]}
intent attempts_are_of_money {"id":null} {"amount":null} {"amount":"NaN"} {"amount":"Infinity"}
    {"amount":0} {"amount":"0.001"} {"amount":1000000000000000000000000000} {"unit":null}
    {"unit":"USDC"} {"raw_amount":"NaN"} {"raw_amount":"0.5"} {"raw_amount":0}
    {"raw_amount":100000000000000000000000000000000000000000000000} {"confirmations":-1}
    {"confirmations":null}
intent references_are_visible_ascii {"provider":null} {"provider":""} {"provider":"a b"}
    {"token":null} {"token":""} {"token":"a b"} {"recipient":null} {"recipient":""}
    {"recipient":"a b"} {"payer":"a b"}
intent addresses_are_in_lower_case {"provider":"8453"} {"provider":"8453","payer":null}
    {"provider":"8453","recipient":"0xABababababababababababababababababababab","payer":null}
intent attempts_expire {"expires_at":"2020-01-01"} {"expires_at":"infinity"}
event references_are_visible_ascii {"id":null} {"id":""} {"id":"a b"}
event events_are_of_a_payment {"kind":null} {"kind":"gift"} {"state":null} {"state":"done"}
    {"payment":null} {"payment":"a b"} {"aliases":null} {"aliases":["a b"]} {"aliases":[null]}
    {"aliases":[["a"],["b"]]} {"aliases":["1","2","3","4","5","6","7","8","9","10","11"]}
    {"note":""} {"note":"a\nb"} {"tenant":"00000000-0000-4000-b000-000000000001"}
event events_are_applied_to_a_claim {"claim":null} {"claim":"stripe:none"} {"tenant":null}
    {"tenant":"Bob"} {"claim":"his payment"} {"claim":"his payment","tenant":"Bob"}
    {"state":"waiting"} {"kind":"payment_canceled"}
    {"kind":"payment_canceled","claim":null,"tenant":"Bob"}
event 22P05 {"id":"\u0000"} {"payment":"\u0000"}
step attempts_lead_on {"from_state":null} {"state":"CREDITED"} {"state":"CREATED_INTENT"}
    {"evidence":null} {"failure":"TX_REVERTED"} {"transaction":"stranger"}
    {"state":"FAILED","evidence":null,"failure":"BAD_LUCK"}
    {"from_state":"CREDITED","state":"FAILED","failure":"TX_REVERTED"}
    {"from_state":"CREDITED"} {"from_state":"REJECTED"} {"evidence":"pi_9"} {"evidence":"stripe:"}
step references_are_visible_ascii {"evidence":"a b"}
step moved_on {"id":"his attempt"} {"id":null} {"from_evidence":"stripe:pi_1"}
    {"from_state":"FAILED"} {"id":"her pending","from_state":"PENDING_UNVERIFIED"}
step claimed {"evidence":"his evidence"}
step not_credited
    {"id":"her pending","from_state":"PENDING_UNVERIFIED","state":"CREDITED",
    "from_evidence":"her evidence",
    "evidence":null,"transaction":"his purchase"}
"""


def forged_prices() -> Iterator[tuple[str, Forgery]]:
    """Yield forgeries of the price in the terms of a purchase."""
    price = {"version": "v1", "currency": "EUR", "scale": 2, "credits": "10000000"}
    changes: list[Any] = [
        *(None, 7, [], "EUR", {}, {**price, "version": None}, {**price, "version": 7}),
        *({**price, "version": "two words"}, {**price, "currency": "JPY"}),
        *({**price, "scale": 3}, {**price, "scale": "2"}, {**price, "scale": 2.5}),
        *({**price, "credits": 10_000_000}, {**price, "credits": "0.0"}),
        *({**price, "credits": "-1"}, {**price, "credits": "1e7"}, {**price, "credits": "NaN"}),
        *({**price, "credits": "1" * 12}, {**price, "credits": "10000000.0000000000001"}),
    ]
    asked: dict[str, Any] = {"paid": "0.01", "paid_unit": "EUR"}
    for change in changes:
        forged = asked | {"policy": json.dumps({"price": change})}
        yield f"purchase: price {change}", ("purchase", forged, "prices_are_of_their_currency")
    for currency, scale in (("EURO", 2), ("eur", 2), ("USD", 3), ("USDC", 2), ("CREDIT", 2)):
        other = price | {"currency": currency, "scale": scale}
        forged = asked | {"paid_unit": currency, "policy": json.dumps({"price": other})}
        title = f"purchase: a price of {currency} with {scale} decimals"
        yield title, ("purchase", forged, "prices_are_of_their_currency")
    for change in ({"paid": "0.02"}, {"amount": 100_001}, {"amount": 99_999}, {"paid": "-0.01"}):
        forged = asked | {"policy": json.dumps({"price": price})} | change
        yield (
            f"purchase: at a price, {change}",
            ("purchase", forged, "purchases_credit_what_was_paid"),
        )
    for paid in ("0.010", "0.1", "1"):
        forged = asked | {"paid": paid, "policy": json.dumps({"price": price})}
        yield f"purchase: {paid} EUR", ("purchase", forged, "prices_are_of_their_currency")


def forged_openings() -> Iterator[tuple[str, Forgery]]:
    """Yield forgeries of openings and of their grants."""
    terms: dict[str, Any] = {"source": "promo", "priority": 1, "at": "2020-01-01", "amount": 5}
    terms["id"] = STRANGER
    for title, value in AMOUNTS.items():
        yield f"brought: {title}", ("brought", {"amount": value}, "amounts_are_whole_and_bounded")
        lot = [terms | {"amount": value}]
        yield f"brought: grant, {title}", ("brought", {"grants": lot}, "grants_have_their_terms")
    changes: list[dict[str, Any]] = [
        *({"amount": 0}, {"amount": -5}, {"id": None}, {"source": None}, {"source": "a b"}),
        *({"priority": -1}, {"priority": 1_000_001}, {"priority": None}, {"at": None}),
        *({"at": "2040-01-01"}, {"at": "infinity"}, {"at": "1969-12-31"}),
        *({"expires_at": "2020-01-02"}, {"expires_at": "infinity"}),
    ]
    for n, change in enumerate(changes):
        lots: list[Any] = [terms, {**terms, "id": UUID(int=n + 1), **change}]
        yield f"brought: grant, {change}", ("brought", {"grants": lots}, "grants_have_their_terms")
    changes = [
        *({"at": None}, {"at": "infinity"}, {"at": "ahead"}, {"at": "1969-12-31"}),
        *({"grants": None}, {"grants": [terms] * 1001}),
    ]
    for change in changes:
        yield f"brought: {str(change)[:99]}", ("brought", change, "openings_are_of_the_past")
    twice = {"grants": [terms, terms]}
    yield "brought: one id twice", ("brought", twice, "ids_are_given_once")
    same = {"grants": [terms], "id": STRANGER}
    yield "brought: the id of a grant", ("brought", same, "ids_are_given_once")
    yield "brought: no id", ("brought", {"id": None}, "transactions_have_an_id")
    for actor in ("", "a b", "\u0001"):
        yield f"brought: actor {actor!r}", ("brought", {"actor": actor}, "actors_are_visible_ascii")


def others() -> Iterator[tuple[str, Forgery]]:
    """Yield the forgeries of the table, and those that are too long for it."""
    for line in OTHERS.replace("\n    ", " ").strip().splitlines():
        doors, rule, altered = line.split(" ", 2)
        while altered:
            fields, end = json.JSONDecoder().raw_decode(altered)
            altered = altered[end:].lstrip()
            for door in doors.split(","):
                yield f"{door}: {fields}", (door, fields, rule)
    long_reason = {"reason": "x" * 256}
    yield "adjustment: reason, 256", ("adjustment", long_reason, "reasons_are_printable")
    for policy in (METADATA["300 levels"], '{"a":"%s"}' % ("x" * 65536)):
        yield (
            f"purchase: policy of {len(str(policy))}",
            ("purchase", {"policy": policy}, "policies_are_small_objects"),
        )
    for name in ("provider", "token", "recipient", "payer"):
        long = {name: "x" * 256}
        yield f"intent: {name}, 256 bytes", ("intent", long, "references_are_visible_ascii")


FORGERIES: dict[str, Forgery] = dict(
    (
        *others(),
        *forged_records(),
        *forged_movements(),
        *forged_openings(),
        *forged_prices(),
        *forged_shares("purchase"),
        *forged_shares("refund"),
    )
)


def named(ids: dict[TenantId, Ids], altered: Any) -> Any:
    """Replace the names of ids in the altered fields."""
    hers, his = ids[ALICE], ids[BOB]
    names: dict[object, object] = {
        "hers": hers.purchase,
        "her hold": hers.hold,
        "her dispute": hers.dispute,
        "her charge": hers.charge,
        "his charge": his.charge,
        "her pending": hers.pending,
        "his purchase": his.purchase,
        "his hold": his.hold,
        "his grant": his.grant,
        "her plan": hers.plan,
        "his plan": his.plan,
        "his attempt": his.created,
        "his payment": payment_of(BOB),
        "his evidence": f"stripe:pending-{BOB}",
        "her evidence": f"stripe:pending-{ALICE}",
        "Alice": ALICE,
        "Bob": BOB,
        "stranger": STRANGER,
    }
    if isinstance(altered, dict):
        return {name: named(ids, moment(hers, value)) for name, value in altered.items()}
    if isinstance(altered, list):
        return [named(ids, value) for value in altered]
    return names.get(altered, altered) if isinstance(altered, str) else altered


class TestForgeries:
    @pytest.mark.parametrize("name", FORGERIES)
    def test_forged_argument_is_refused_by_name_and_leaves_no_row(
        self, kept: Database, known: dict[TenantId, Ids], name: str
    ) -> None:
        door, altered, refused_by = FORGERIES[name]
        asked = DOORS[door].asked(at_present(known[ALICE]), named(known, altered))
        with undone(kept, DOORS[door].role) as connection:
            before = dump(connection)
        with undone(kept, DOORS[door].role) as connection:
            nested = connection.begin_nested()
            try:
                answer = ask(connection, DOORS[door].function, DOORS[door].tenant, asked)
                told = (answer[0] if DOORS[door].many else answer)["outcome"]
            except DBAPIError as error:
                nested.rollback()
                sqlstate, rule = rule_of(error)
                told = rule or sqlstate

            assert told == refused_by
            assert dump(connection) == before

    @pytest.mark.parametrize("door", DOORS)
    def test_valid_argument_is_accepted(
        self, kept: Database, known: dict[TenantId, Ids], door: str
    ) -> None:
        asked = DOORS[door].asked(at_present(known[ALICE]), {})
        with undone(kept, DOORS[door].role) as connection:
            answer = ask(connection, DOORS[door].function, DOORS[door].tenant, asked)

        [told] = answer if DOORS[door].many else [answer]
        assert not isinstance(told, dict) or told.get("outcome", "done") == "done"

    @pytest.mark.parametrize(
        ("function", "asked"),
        [
            ("spend", None),
            ("spend", []),
            ("mint", []),
        ],
    )
    def test_no_movements_change_nothing(
        self, kept: Database, known: dict[TenantId, Ids], function: str, asked: Asked
    ) -> None:
        with undone(kept, "app_user") as connection:
            before = dump(connection)
            assert ask(connection, function, ALICE, asked) == []
            assert dump(connection) == before

    @pytest.mark.parametrize("function", VALID)
    @pytest.mark.parametrize(
        "asked",
        [None, "", "null", "1", '"a"', "[1]", "[null]", "[[]]", "{}", "[{}]", "{", "[" * 10_000],
    )
    def test_argument_of_another_shape_is_refused_or_names_nothing(
        self, kept: Database, known: dict[TenantId, Ids], function: str, asked: str | None
    ) -> None:
        purpose = next(who for who, name in sorted(CALLERS) if name == function)
        given = (asked,) if function.endswith("_groups") else (ALICE, None, asked)
        with undone(kept, NAMES[purpose]) as connection:
            before = dump(connection)
        with undone(kept, NAMES[purpose]) as connection:
            try:
                with connection.begin_nested():
                    call(connection, function, *given)
            except DBAPIError as error:
                assert_named(error)
            assert dump(connection) == before

    def test_all_or_nothing_batch_with_a_refusal_records_no_request(
        self, kept: Database, known: dict[TenantId, Ids]
    ) -> None:
        ids = at_present(known[ALICE])
        batch = [charge(ids), charge(ids, reference="new-2", amount=-(10**12))]
        with undone(kept, "app_user") as connection:
            before = dump(connection)
        with undone(kept, "app_user") as connection:
            answer = call(connection, "spend", ALICE, None, batch, True)
            assert [each["outcome"] for each in answer] == ["done", "insufficient"]
            assert dump(connection) == before


def at_present(ids: Ids) -> Ids:
    return evolve(ids, now=now())


def assert_named(error: DBAPIError) -> None:
    """Check that a named rule refused, or the conversion of a value."""
    sqlstate, rule = rule_of(error)
    assert rule is not None or (sqlstate or "")[:2] == "22" or sqlstate == "54001", error
