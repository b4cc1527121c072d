"""The bank test: many processes make every kind of call on the ledger of a few tenants.

The keys come from a small pool, so that processes make the same calls. Each process logs the
answers. Afterwards the ledger must hold exactly the logged transactions, each of them once.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeAlias
from uuid import UUID

from attrs import define, field
from sqlalchemy import create_engine

from cogni_billing import (
    SYSTEM_TENANT_ID,
    AccountId,
    AttemptRules,
    Billing,
    BillingError,
    Destination,
    Intent,
    LedgerCorruption,
    LedgerUnavailable,
    OutcomeUnknown,
    PaymentAlreadyClaimed,
    PaymentAttempts,
    Shortfall,
    TenantId,
    credits,
    usd_cents,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.domain.findings import Finding
from cogni_billing.domain.identity import account_of
from cogni_billing.domain.receipts import (
    CaptureReceipt,
    ChargeReceipt,
    GrantReceipt,
    PurchaseReceipt,
    Receipt,
    RefundReceipt,
)
from cogni_billing.testing import paid

CUSTOMERS: Final = tuple(TenantId(UUID(int=2**100 + n)) for n in range(4))
TENANTS: Final = (*CUSTOMERS, SYSTEM_TENANT_ID)
KEYS: Final = 12
WINDOW_S: Final = 1.0
PAUSE_S: Final = 0.05
CENT: Final = 100_000

Request: TypeAlias = dict[str, Any]
Deltas: TypeAlias = dict[str, int]
Told: TypeAlias = tuple[str, Deltas]
"""A transaction, and the amount that it added to each account."""

SHARES_OF_CALLS: Final = {
    "purchase": 20,
    "purchases": 3,
    "charge": 25,
    "charges": 3,
    "capture": 10,
    "release": 5,
    "grant": 5,
    "refund": 8,
    "dispute": 4,
    "win": 3,
    "lose": 3,
    "attempt": 6,
    "attempts": 1,
    "balance": 8,
    "statement": 4,
    "fold": 1,
}


def attempts_of(billing: Billing) -> PaymentAttempts:
    """Build payment attempts on the same ledger. Every payment is found as intended."""
    return PaymentAttempts(
        billing.unit_of_work,
        verifier=AlwaysPaid(),
        destinations=Destination.card("bank", recipient="acct_1"),
        rules=AttemptRules(minimum=usd_cents(1)),
    )


class AlwaysPaid:
    """A verifier that finds every payment."""

    def verify(self, evidence: str, intent: Intent, /) -> Finding:
        return paid(intent)


def drawn(chance: random.Random, window: int) -> Request:
    """Draw a random request. Processes that draw in the same window often draw the same request."""
    (call,) = chance.choices([*SHARES_OF_CALLS], [*SHARES_OF_CALLS.values()])
    return {
        "call": call,
        "tenant": chance.randrange(len(TENANTS)),
        "key": f"{window}-{chance.randrange(KEYS)}",
        "amount": chance.choice([1, 1, 1, 2]),
    }


def asked(billing: Billing, request: Request) -> tuple[list[Told], bool]:
    """Make the request. Returns the recorded transactions, and true if it was a replay."""
    tenant = TENANTS[request["tenant"]]
    key, amount = request["key"], request["amount"]
    on: Any = {"payment": f"bank:{key}", "reference": f"dp:{key}"}
    cents, some = usd_cents(amount), credits(amount * CENT)
    batch = [(number, each) for number, each in enumerate(TENANTS)]

    def held() -> UUID:
        return billing.hold(tenant, some, reference=key).id

    def attempted() -> object:
        attempts = attempts_of(billing)
        with suppress(PaymentAlreadyClaimed):
            intent = attempts.create_intent(tenant, cents)
            attempts.submit(tenant, intent.attempt_id, f"bank:{key}")
        return billing.confirm_purchase(tenant, cents, payment=f"bank:{key}")

    calls: dict[str, Callable[[], object]] = {
        "purchase": lambda: billing.confirm_purchase(tenant, cents, payment=f"bank:{key}"),
        "purchases": lambda: billing.confirm_purchases(
            {"tenant": each, "amount": cents, "payment": f"many:{key}:{n}"} for n, each in batch
        ),
        "charge": lambda: billing.charge(tenant, some, reference=key),
        "charges": lambda: billing.charge_many(
            {"tenant": each, "amount": some, "reference": f"many:{key}"} for _, each in batch
        ),
        "capture": lambda: billing.capture(tenant, held(), some, reference=key),
        "release": lambda: billing.release(tenant, held()),
        "grant": lambda: billing.grant(tenant, some, source="bank", reference=key),
        "refund": lambda: billing.refund(
            tenant,
            payment=f"bank:{key}",
            amount=cents,
            reference=key,
            shortfall=(Shortfall.CLAMP, Shortfall.DEBT)[request["tenant"] % 2],
        ),
        # A lost dispute that is won would make a transaction that no receipt shows.
        "dispute": lambda: billing.open_dispute(
            tenant, amount=cents, **on | {"reference": f"{('win', 'lose')[amount % 2]}:{key}"}
        ),
        "win": lambda: billing.win_dispute(tenant, **on | {"reference": f"win:{key}"}),
        "lose": lambda: billing.lose_dispute(tenant, **on | {"reference": f"lose:{key}"}),
        "attempt": attempted,
        "attempts": lambda: attempts_of(billing).sweep(),
        "balance": lambda: billing.balance(tenant),
        "statement": lambda: billing.statement(tenant, limit=20),
        "fold": billing.fold,
    }
    answer = calls[request["call"]]()
    if not isinstance(answer, tuple):
        recorded = [told(tenant, answer)] if isinstance(answer, Receipt) else []
        return recorded, getattr(answer, "replayed", False)
    for outcome in answer:
        if isinstance(outcome.error, (LedgerUnavailable, OutcomeUnknown)):
            raise outcome.error
    made = [
        (each, outcome) for each, outcome in zip(TENANTS, answer, strict=True) if outcome.receipt
    ]
    return (
        [told(each, outcome.receipt) for each, outcome in made],
        any(outcome.receipt.replayed for _, outcome in made),
    )


def told(tenant: TenantId, receipt: Receipt) -> Told:
    """Return the amounts that the receipt adds to each account."""
    match receipt:
        case PurchaseReceipt():
            own, shares, sign = receipt.credited, receipt.shares, 1
        case RefundReceipt():
            own, shares, sign = -receipt.taken, receipt.shares, -1
        case ChargeReceipt():
            own, shares, sign = -receipt.charged, (), 1
        case CaptureReceipt():
            own, shares, sign = -receipt.captured, (), 1
        case GrantReceipt():
            own, shares, sign = receipt.granted, (), 1
        case _:
            raise TypeError(type(receipt).__name__)
    deltas: Deltas = {str(account_of(tenant)): int(own.value)}
    for share in shares:
        beneficiary = str(share.beneficiary)
        deltas[beneficiary] = deltas.get(beneficiary, 0) + sign * int(share.amount.value)
    return str(receipt.transaction_id), deltas


@define
class Log:
    """Log of one process's requests and answers. It survives a kill of the process."""

    path: Path
    _file: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._file = os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def write(self, entry: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(entry).encode() + b"\n")


def work(address: Path, log: Path, seed: int, stop: Path, calls_max: int) -> None:
    """Make random calls on the server, until the file *stop* exists or *calls_max* calls were made.

    The file *address* contains the URLs of the server.
    """
    chance = random.Random(seed)
    entries = Log(log)
    calls = iter(range(calls_max))

    def goes_on() -> bool:
        return not stop.exists() and next(calls, None) is not None

    while goes_on():
        urls = json.loads(address.read_text())
        engines = [create_engine(url, pool_size=1, max_overflow=0) for url in urls]
        try:
            billing = Billing(PostgresUnitOfWork(engines[0], service=engines[1]))
            while goes_on():
                request = drawn(chance, int(time.time() / WINDOW_S))
                entries.write({"asked": request})
                entries.write(answered(billing, request))
        except (LedgerUnavailable, OutcomeUnknown) as error:
            entries.write({"unknown": error.code})
            time.sleep(PAUSE_S)  # the server may be starting
        finally:
            for engine in engines:
                engine.dispose()


def answered(billing: Billing, request: Request) -> dict[str, Any]:
    """Return the log entry for an answer.

    Raises:
        LedgerUnavailable, OutcomeUnknown: there was no answer.
    """
    try:
        recorded, replayed = asked(billing, request)
    except (LedgerUnavailable, OutcomeUnknown):
        raise
    except LedgerCorruption as error:
        return {"corruption": f"{request}: {error}"}
    except BillingError as error:
        return {"refused": error.code}
    return {"told": recorded, "replayed": replayed}


@define
class Tally:
    """The logs of all processes together."""

    outcomes: Counter[str] = field(factory=Counter)
    unanswered: list[Request] = field(factory=list)
    _effects: dict[str, Deltas] = field(factory=dict)

    def read(self, log: Path) -> None:
        request: Request | None = None
        for entry in entries_of(log):
            if "asked" in entry:
                if request is not None:  # its process was killed before the answer
                    self.unanswered.append(request)
                request = entry["asked"]
                continue
            assert request is not None
            if "unknown" in entry:
                self.outcomes[entry["unknown"]] += 1
                self.unanswered.append(request)
            self.add(entry)
            request = None
        if request is not None:
            self.unanswered.append(request)

    def add(self, entry: dict[str, Any]) -> None:
        """Add an answer. All answers about a transaction must be equal."""
        assert "corruption" not in entry, entry
        if "refused" in entry:
            self.outcomes[entry["refused"]] += 1
        if "told" in entry:
            self.outcomes["replayed" if entry["replayed"] else "done"] += 1
            for transaction, deltas in entry["told"]:
                assert self._effects.setdefault(transaction, deltas) == deltas, transaction

    def settle(self, billing: Billing) -> None:
        """Repeat the requests that got no answer."""
        while self.unanswered:
            self.add(answered(billing, self.unanswered.pop()))

    @property
    def transactions(self) -> int:
        return len(self._effects)

    def totals(self) -> dict[AccountId, Decimal]:
        """Return the expected balance of every account."""
        totals: Counter[AccountId] = Counter()
        for deltas in self._effects.values():
            for account, amount in deltas.items():
                totals[AccountId(UUID(account))] += amount
        return {account: Decimal(amount) for account, amount in totals.items()}


def entries_of(log: Path) -> Iterator[dict[str, Any]]:
    """Return the entries of a log, without an incomplete last line."""
    written, _, _ = log.read_text().rpartition("\n")
    for line in written.splitlines():
        yield json.loads(line)
