"""Contract: bad input to every argument of every call is refused by name, before any SQL.

`ARGUMENTS` has a good value for each argument, and `BAD` the bad values of each type. A call or an
argument that is missing here fails the suite.
"""

from __future__ import annotations

import enum
import inspect
import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Final, TypeAlias
from uuid import UUID

import pytest
from attrs import evolve

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    Billing,
    BillingError,
    GrantSchedule,
    InvalidInput,
    Overrun,
    Shortfall,
    credits,
    usd,
)
from cogni_billing.testing.base import ALICE, BOB, NOON, Contract, Reached, Totals

HOUR = timedelta(hours=1)


class Kind(enum.StrEnum):
    RUN = "run-1"


class Odd(str):
    """A key that claims to equal every other."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


def nested(levels: int) -> dict[str, object]:
    value: dict[str, object] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def cyclic() -> dict[str, object]:
    value: dict[str, object] = {}
    value["itself"] = value
    return value


UUIDS: Final = (None, "", str(ALICE), ALICE.hex, ALICE.int, ALICE.bytes, f"{{{ALICE}}}", True, ())
KEYS: Final = (
    *(
        None,
        7,
        b"run-1",
        True,
        Kind.RUN,
        Odd("run-1"),
        ("stripe", "pi_1"),
        "",
        " ",
        "a b",
        " a",
        "a ",
    ),
    *(
        "a\n",
        "a\t",
        "a\0",
        "\x1b[31m",
        "\x7f",
        "caf\u00e9",
        "cafe\u0301",
        "p\u0430yment",
        "a\u00a0b",
    ),
    *("a\u200bb", "\u202eabc", "\ud800", "x" * 256, "x" * 1_000_000),
)
MOMENTS: Final = (
    *("2026-11-23T12:00:00Z", 1_700_000_000, 1.5, True, date(2026, 11, 23), datetime(2026, 11, 23)),
    datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
    datetime(9999, 1, 1, tzinfo=UTC),
    datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
    datetime.min.replace(tzinfo=timezone(timedelta(hours=12))),
)
NUMBERS: Final = (
    10,
    10.0,
    math.nan,
    "10",
    "1_000",
    "\u0661",
    Decimal(10),
    True,
    b"10",
    (),
    object(),
)
SCHEDULE: Final = GrantSchedule("plan", credits(5), every="month")
FLAGS: Final = (None, 0, 1, "yes", "", (), object())
BAD: Final[dict[str, tuple[object, ...]]] = {
    "tenant": (*UUIDS, UUID(int=0), SYSTEM_ACCOUNT_ID),
    "id": UUIDS,
    "some id": UUIDS[1:],
    "schedule": (
        *(None, 7, "plan", ("plan", credits(5)), {"every": "day"}, object()),
        evolve(SCHEDULE, every="once"),
    ),
    "credits": (None, *NUMBERS, credits(0), credits(-1), usd(1), [credits(1)]),
    "correction": (None, *NUMBERS, credits(0), usd(1), [credits(1)], credits(10**27) + credits(1)),
    "credits from zero": (None, *NUMBERS, credits(-1), usd(0), usd(1), [credits(1)]),
    "balance": (None, *NUMBERS, usd(0), usd(1), [credits(1)], credits(10**27) + credits(1)),
    "charge": KEYS,
    "money": (None, *NUMBERS, usd(0), usd("-0.01"), credits(1), [usd(1)]),
    "money of a part": (None, *NUMBERS, usd(0), usd("-0.01"), [usd(1)]),
    "some money": (*NUMBERS, usd(0), usd("-0.01"), [usd(1)]),
    "key": KEYS,
    "payment": (*KEYS, "pi_9", ":pi_9", "stripe:", ":", f"8453:0x{'AB' * 32}"),
    "source": KEYS,
    "actor": tuple(key for key in KEYS if key is not None),
    "reason": (
        *(None, 7, b"r", True, Kind.RUN, Odd("r"), "", " ", "   ", "\u00a0", "a\n", "a\tb", "a\0"),
        *(
            "\x1b[31m",
            "\x7f",
            "\u202eabc",
            "\u200b",
            "\u2028",
            "\ud800",
            "x" * 256,
            "x" * 1_000_000,
        ),
    ),
    "some reason": (7, b"r", True, "", " ", "a\n", "x" * 256),
    "metadata": (
        *("{}", [], [("a", 1)], 7, True, cyclic(), nested(9), nested(3000)),
        *({1: "a"}, {None: "a"}, {("a",): 1}, {Kind.RUN: 1}, {"a\0": 1}, {"\udfff": 1}),
        *({"a": each} for each in (math.nan, math.inf, -math.inf, {1, 2}, b"", NOON, object())),
        *({"a": each} for each in (1j, Kind.RUN, "\0", "\ud800", 10**5000, Decimal(1), ALICE)),
        *({"a": "x" * 16_384}, {"a": [0] * 1_000_000}, {str(n): n for n in range(100_000)}),
    ),
    "flag": FLAGS,
    "shortfall": (None, "debt", "DEBT", 0, True, object()),
    "clawback": (None, "debt", 0, True, object(), Shortfall.REFUSE),
    "moment": MOMENTS,
    "moment that must be": (None, *MOMENTS),
    "grants": (None, 7, True, object(), "promo", {"amount": 5}, [None], [{"amount": 5}], [[]]),
    "lifetime": (3600, 1.5, "1 h", True, timedelta(0), timedelta(-1), timedelta.max, NOON),
    "time": (None, 3600, 1.5, "1 h", True, timedelta(0), timedelta(-1), timedelta.max, NOON),
    "pace": (None, *NUMBERS, credits(0), credits(-1), usd(1), timedelta(0), timedelta(-1)),
    "some credits": (*NUMBERS, credits(0), credits(-1), usd(1)),
    "credits or zero": (None, *NUMBERS, credits(-1), usd(1), usd(0), [credits(1)]),
    "some credits or zero": (*NUMBERS, credits(-1), usd(1), usd(0), [credits(1)]),
    "overrun": (None, "debt", "REFUSE", 0, True, object()),
    "place": ("", "5", "5-5", "-1-" + "0" * 32, "9" * 19 + "-" + "0" * 32, 5, b"1", True),
    "priority": (None, 1.0, "1", True, 2**31, -(2**31) - 1, 10**5000, math.nan),
    "limit": (0, -1, True, 1.0, "50", None, 10**100),
    "some limit": (0, -1, True, 1.0, "50", 10**100),
    "cursor": ("", "0", "01", "-1", "1e3", "x" * 100, 5, b"1", "\u0661", True, "9" * 1000),
    "kind": ("", "gift", "PURCHASE", 7, True, b"charge", object()),
    "kind that must be": ("", "gift", "PURCHASE", 7, True, b"charge", object(), None),
    "secret": (None, "k" * 32, bytearray(32), b"", b"k" * 31, b"k" * 65, 7, True),
    "seals": (None, 7, "seal", b"seal", object(), [None], [{}], [("a", 1)]),
    "requests": (None, 7, True, object(), "pi_1", {"tenant": ALICE}),
}
BAD["some reason"] = tuple(each for each in BAD["reason"] if each is not None)
Arguments: TypeAlias = dict[str, tuple[object, str]]
# For each argument: a good value, and the type in `BAD` with its bad values.
TENANT: Final[Arguments] = {"tenant": (ALICE, "tenant")}
METADATA: Final[Arguments] = {"metadata": ({"a": 1}, "metadata")}
REFERENCE: Final[Arguments] = {"reference": ("run-1", "key")}
PAYMENT: Final[Arguments] = {"payment": ("stripe:pi_1", "payment")}
CREDITS: Final[Arguments] = {"amount": (credits(5), "credits")}
PART: Final[Arguments] = {"amount": (usd("0.50"), "some money")}
TOTAL: Final[Arguments] = {"total": (None, "some money")}  # not beside an amount
SHORTFALL: Final[Arguments] = {"shortfall": (Shortfall.CLAMP, "shortfall")}
HOLD: Final[Arguments] = {"hold_id": (UUID(int=5), "id")}
GRANT: Final[Arguments] = {"grant_id": (UUID(int=5), "id")}
EXPIRES: Final[Arguments] = {"expires_at": (NOON + HOUR, "moment")}
EXPIRES_IN: Final[Arguments] = {"expires_in": (None, "lifetime")}  # beside expires_at
SOME: Final[Arguments] = {"amount": (credits(5), "some credits")}
RULES: Final[Arguments] = {"final": (False, "flag"), "overrun": (Overrun.AVAILABLE, "overrun")}
SECRET: Final[Arguments] = {"key": (b"k" * 32, "secret")}
ALL_OR_NOTHING: Final[Arguments] = {"all_or_nothing": (False, "flag")}
ARGUMENTS: Final[dict[str, Arguments]] = {
    "open_account": TENANT,
    "confirm_purchase": TENANT
    | {"amount": (usd("1.00"), "money")}
    | PAYMENT
    | EXPIRES_IN
    | METADATA,
    "confirm_purchases": {"purchases": ((), "requests")} | ALL_OR_NOTHING,
    "charge": TENANT
    | {"amount": (credits(0), "credits from zero")}
    | REFERENCE
    | {"allow_overdraft": (False, "flag"), "at_most": (True, "flag")}
    | {"occurred_at": (None, "moment")}
    | METADATA,
    "charge_many": {"charges": ((), "requests")} | ALL_OR_NOTHING,
    "reverse": TENANT
    | {"charge": ("run-1", "charge")}
    | REFERENCE
    | {"amount": (credits(5), "some credits"), "reason": ("it failed", "some reason")}
    | METADATA,
    "hold": TENANT | CREDITS | REFERENCE | EXPIRES | EXPIRES_IN | METADATA,
    "capture": TENANT
    | HOLD
    | {"amount": (credits(5), "credits or zero")}
    | REFERENCE
    | RULES
    | METADATA,
    "extend": TENANT | HOLD | SOME | EXPIRES | EXPIRES_IN | REFERENCE,
    "release": TENANT | HOLD | SOME | REFERENCE,
    "metered": TENANT
    | {"limit": (credits(5), "credits")}
    | REFERENCE
    | {"ttl": (HOUR, "time"), "every": (credits(5), "pace")},
    "find_hold": TENANT | REFERENCE,
    "holds": TENANT | {"limit": (5, "limit"), "after": ("5-" + "0" * 32, "place")},
    "grant": TENANT
    | CREDITS
    | {"source": ("promo:a", "source")}
    | REFERENCE
    | EXPIRES
    | EXPIRES_IN
    | {"effective_from": (NOON, "moment")}
    | {"priority": (1, "priority")}
    | METADATA,
    "grants": TENANT
    | {"spent": (True, "flag"), "limit": (5, "some limit"), "after": (UUID(int=5), "some id")},
    "lots": TENANT,
    "void_grant": TENANT | GRANT | REFERENCE | {"reason": ("a mistake", "some reason")} | METADATA,
    "extend_grant": TENANT | GRANT | REFERENCE | EXPIRES | EXPIRES_IN,
    "schedule_grants": TENANT
    | {"schedule": (SCHEDULE, "schedule"), "replaces": (UUID(int=5), "some id")}
    | REFERENCE
    | METADATA,
    "end_schedule": TENANT | {"schedule_id": (UUID(int=5), "id")},
    "schedules": TENANT | {"limit": (5, "limit"), "after": (UUID(int=5), "some id")},
    "refund": TENANT | PAYMENT | PART | TOTAL | REFERENCE | SHORTFALL | METADATA,
    "refund_failed": TENANT | PAYMENT | {"refund": ("re_1", "key")} | REFERENCE | METADATA,
    "open_dispute": TENANT | PAYMENT | REFERENCE | PART | METADATA,
    "update_dispute": TENANT | PAYMENT | REFERENCE | {"amount": (usd("0.50"), "money of a part")},
    "win_dispute": TENANT | PAYMENT | REFERENCE,
    "lose_dispute": TENANT
    | PAYMENT
    | REFERENCE
    | PART
    | {"shortfall": (Shortfall.CLAMP, "clawback")}
    | METADATA,
    "find_payment": PAYMENT,
    "adjust": TENANT
    | {"amount": (credits(-5), "correction"), "reason": ("billed twice", "reason")}
    | {"actor": ("user:42", "actor")}
    | REFERENCE
    | METADATA,
    "balance": TENANT | {"at": (NOON, "moment")},
    "statement": TENANT
    | {"limit": (5, "limit"), "after": ("5", "cursor"), "kind": ("charge", "kind")}
    | {"since": (NOON, "moment"), "until": (NOON, "moment")},
    "find": TENANT | REFERENCE | {"kind": ("charge", "kind that must be")},
    "transaction": TENANT | {"transaction_id": (UUID(int=5), "id")},
    "forget": TENANT,
    "opening": TENANT
    | {"purchased": (credits(-5), "balance"), "grants": ((), "grants")}
    | {"as_of": (NOON, "moment that must be")},
    "freeze": TENANT | {"reason": ("billed twice", "reason")},
    "unfreeze": TENANT,
    "set_overdraft_limit": TENANT | {"amount": (credits(5), "some credits or zero")},
    "fold": {},
    "sweep": {},
    "verify": {"limit": (5, "limit")},
    "seal": {"seals": ((), "seals")} | SECRET,
    "verify_seals": {"seals": ((), "seals")} | SECRET,
}
PLACES: Final = [(call, name) for call, names in ARGUMENTS.items() for name in names]
REQUESTS: Final = {"confirm_purchases": "confirm_purchase", "charge_many": "charge"}


def arguments(call: str) -> dict[str, object]:
    """Good arguments for *call*."""
    return {name: good for name, (good, _) in ARGUMENTS[call].items()}


class BadInputContract(Contract):
    def test_every_argument_of_every_call_is_listed(self, billing: Billing) -> None:
        calls = {
            name: set(inspect.signature(call).parameters) - {"self"}
            for name, call in vars(Billing).items()
            if inspect.isfunction(call) and not name.startswith("_")
        }

        assert calls == {name: set(names) for name, names in ARGUMENTS.items()}

    @pytest.mark.parametrize(("call", "name"), PLACES)
    def test_a_bad_argument_is_refused_by_name_before_the_store_is_reached(
        self, billing: Billing, reached: Reached, totals: Totals, call: str, name: str
    ) -> None:
        before = reached()
        for bad in BAD[ARGUMENTS[call][name][1]]:
            with pytest.raises(BillingError) as caught:
                getattr(billing, call)(**arguments(call) | {name: bad})
            self.names_the_argument(caught.value, name)

        assert reached() == before
        assert totals() == {}

    @pytest.mark.parametrize("call", REQUESTS)
    def test_one_bad_request_of_a_batch_is_refused_like_a_call_alone(
        self, billing: Billing, reached: Reached, totals: Totals, call: str
    ) -> None:
        billing.open_account(ALICE)
        before = reached()
        like = REQUESTS[call]
        for name, (_, kind) in ARGUMENTS[like].items():
            for bad in BAD[kind]:
                request = arguments(like) | {name: bad}
                (outcome,) = getattr(billing, call)([request])
                self.names_the_argument(outcome.error, name)
                if name == "tenant":  # other fields are refused inside the tenant's scope
                    assert reached() == before
        for nonsense in (None, 7, "pi_1", {}, {"tenant": ALICE}, arguments(like) | {"more": 1}):
            (outcome,) = getattr(billing, call)([nonsense])
            assert isinstance(outcome.error, InvalidInput)

        assert totals() == {}

    def test_every_good_argument_is_accepted(self, billing: Billing) -> None:
        """Shows that the bad value causes the refusals above."""
        billing.confirm_purchase(BOB, usd("1.00"), payment="stripe:bobs")
        for call in ARGUMENTS:
            try:
                getattr(billing, call)(**arguments(call))
            except InvalidInput as error:
                pytest.fail(f"{call}: {error}")
            except BillingError:
                continue  # the hold, payment or dispute is unknown

    @staticmethod
    def names_the_argument(error: BillingError, name: str) -> None:
        assert isinstance(error, InvalidInput), repr(error)
        assert error.field.split("[")[0].split(".")[0] == name, error
        assert len(str(error)) < 400
