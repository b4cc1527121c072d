"""The demonstration: real purchases on a real PostgreSQL, and each tenant's view of them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.resources import files
from time import monotonic
from typing import Any
from uuid import NAMESPACE_DNS, UUID, uuid5

from attrs import frozen
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy import URL, Engine, create_engine, text

from cogni_billing.adapters.postgres import PostgresUnitOfWork, TrialBalance, trial_balance
from cogni_billing.adapters.postgres.embedded import EmbeddedPostgres
from cogni_billing.adapters.postgres.operations.sandbox import Sandbox, temporary_database
from cogni_billing.billing import Billing
from cogni_billing.cli.tables import cell, quantity, statement_table, table, trial_balance_table
from cogni_billing.domain.accounts import SYSTEM_TENANT_SLUG
from cogni_billing.domain.amounts import CREDIT, Amount, credits, parsed, total, usd
from cogni_billing.domain.errors import BillingError
from cogni_billing.domain.identity import SYSTEM_TENANT_ID


@frozen
class Payment:
    """A line of the bundled file."""

    tenant: str
    payment: str
    amount: Amount

    @property
    def tenant_id(self) -> UUID:
        """An id derived from the name, so that each run prints the same."""
        if self.tenant == SYSTEM_TENANT_SLUG:
            return SYSTEM_TENANT_ID
        return uuid5(NAMESPACE_DNS, f"{self.tenant}.example")


@frozen
class Call:
    """A call of the demonstration."""

    name: str
    asked: str
    make: Callable[[], object]


def run_demo(console: Console, admin_url: URL | None, *, everything: bool) -> None:
    """Confirm the bundled payments in a temporary database, and show the results.

    By default one screen of 80 columns. With *everything*, also the details and each tenant's view.
    """
    began = monotonic()
    with ExitStack() as stack:
        database = stack.enter_context(_database(admin_url))
        roles = ("app_user", "app_spender", "app_service")
        engines = [create_engine(database.url(role)) for role in roles]
        for engine in engines:
            stack.callback(engine.dispose)
        _show(console, *engines, everything=everything)
        server = f"PostgreSQL {_version(engines[0])}"
    place = "embedded" if admin_url is None else "in a database of its own"
    console.print(f"{monotonic() - began:.1f} s on {server}, {place}. It is removed again.")
    if not everything:
        console.print("Next: `cogni-billing demo --all` shows each tenant's view of this.")


@contextmanager
def _database(admin_url: URL | None) -> Iterator[Sandbox]:
    if admin_url is None:
        with EmbeddedPostgres() as server:
            yield server
    else:
        with temporary_database(admin_url) as database:
            yield database


def _version(engine: Engine) -> str:
    with engine.connect() as connection:
        version: str = connection.execute(text("SHOW server_version")).scalar_one()
    return version.split(maxsplit=1)[0]


def _show(
    console: Console,
    engine: Engine,
    spender_engine: Engine,
    service_engine: Engine,
    *,
    everything: bool,
) -> None:
    billing = Billing(PostgresUnitOfWork(engine, service=service_engine))
    spender = Billing(PostgresUnitOfWork(spender_engine))
    payments = bundled_payments()
    tenants = {payment.tenant: payment.tenant_id for payment in payments}
    for tenant in tenants.values():
        billing.open_account(tenant)
    acme, globex = tenants["acme"], tenants["globex"]

    console.print("\nEight confirmed payments arrive. A replay counts once, a stolen one never:\n")
    console.print(_confirmed(billing, payments, everything=everything))
    console.print("\nA role that may spend credits but not create them spends acme's:\n")
    spending = _spending(billing, spender, acme)
    console.print(_called(billing, acme, spending, everything=everything))
    console.print("\nA payment of globex is refunded in part, and the rest of it is disputed:\n")
    console.print(_called(billing, globex, _returning(billing, globex), everything=everything))
    if everything:
        console.print("\nEach tenant sees its own postings only:\n")
        for name, tenant in tenants.items():
            lines = billing.statement(tenant).lines
            console.print(statement_table(f"{name} ({tenant})", lines, billing.balance(tenant)))
        console.print("\nThe service role reads across tenants, and all postings sum to zero:\n")
    report = trial_balance(service_engine)
    console.print(trial_balance_table(report) if everything else f"\n{_sum(report)}")
    verification = billing.verify()
    console.print(
        f"Every invariant, checked over {verification.transactions} transactions and"
        f" {verification.postings} postings: {len(verification.violations)} violations."
    )


def _confirmed(billing: Billing, payments: list[Payment], *, everything: bool) -> Table:
    columns = ("tenant", *["payment"] * everything, "paid", "outcome", "credited", "share")
    result = _table(columns, ("paid", "credited", "share"), everything=everything)
    for payment in payments:
        paid = (payment.tenant, *[payment.payment] * everything, str(payment.amount))
        try:
            receipt = billing.confirm_purchase(
                payment.tenant_id, payment.amount, payment=payment.payment
            )
        except BillingError as error:
            result.add_row(*paid, _refused(error, everything=everything), "", "")
        else:
            share = total((share.amount for share in receipt.shares), CREDIT)
            outcome = "[yellow]replayed" if receipt.replayed else "[green]confirmed"
            result.add_row(*paid, outcome, quantity(receipt.credited), quantity(share))
    return result


def _refused(error: BillingError, *, everything: bool) -> Text:
    code = cell(error.code, "red")
    return code.append(f": {error}", "default") if everything else code


def _table(columns: Iterable[str], numeric: Iterable[str], *, everything: bool) -> Table:
    result = table(None, columns, numeric=numeric)
    if not everything:
        result.box, result.padding, result.pad_edge = SIMPLE_HEAD, (0, 1, 0, 0), False
        result.show_edge = False
    return result


def _sum(report: TrialBalance) -> str:
    parts = [f"{name} {quantity(balance)}" for name, balance in report.balances.items()]
    return f"The whole ledger sums to {quantity(report.total)}:\n  " + "\n  ".join(parts)


def _spending(billing: Billing, spender: Billing, tenant: UUID) -> Iterator[Call]:
    def hold() -> None:
        held.append(spender.hold(tenant, credits(50_000), reference="run-8").id)

    def grant() -> None:
        billing.grant(tenant, credits(5_000_000), source="promo:launch", reference="launch")

    held: list[UUID] = []
    charge, capture = partial(spender.charge, tenant), partial(spender.capture, tenant)
    mint = partial(spender.confirm_purchase, tenant, usd("9.00"), payment="stripe:pi_forged")
    yield Call("grant", "5 000 000", grant)
    yield Call("charge", "1 200", lambda: charge(credits(1_200), reference="run-7"))
    yield Call("hold", "50 000", hold)
    yield Call("capture", "31 000", lambda: capture(held[0], credits(31_000), reference="run-8"))
    yield Call("charge", "10^12", lambda: charge(credits(10**12), reference="run-9"))
    yield Call("confirm_purchase", "9.00 USD", mint)


def _returning(billing: Billing, tenant: UUID) -> Iterator[Call]:
    on: Any = {"payment": "stripe:pi_3Mq2"}
    refund = partial(billing.refund, tenant, **on)
    dispute, win = (
        partial(billing.open_dispute, tenant, **on),
        partial(billing.win_dispute, tenant, **on),
    )
    yield Call("refund", "20.00 USD", lambda: refund(amount=usd("20.00"), reference="re_1"))
    yield Call("refund", "40.00 USD", lambda: refund(amount=usd("40.00"), reference="re_2"))
    yield Call("open_dispute", "the rest", lambda: dispute(reference="dp_1"))
    yield Call("win_dispute", "", lambda: win(reference="dp_1"))


def _called(billing: Billing, tenant: UUID, calls: Iterable[Call], *, everything: bool) -> Table:
    columns = ("call", "requested", "outcome", "balance", "held")
    result = _table(columns, (columns[1], *columns[3:]), everything=everything)
    for call in calls:
        outcome = cell("done", "green")
        try:
            call.make()
        except BillingError as error:
            outcome = _refused(error, everything=everything)
        own = billing.balance(tenant)
        figures = map(quantity, (own.posted, own.held))
        result.add_row(call.name, call.asked, outcome, *figures)
    return result


def bundled_payments() -> list[Payment]:
    """The payments in the package, in the order of their arrival."""
    with files("cogni_billing.cli").joinpath("payments.csv").open(encoding="utf-8") as lines:
        return [
            Payment(line["tenant"], line["payment"], parsed(line["amount"]))
            for line in csv.DictReader(lines)
        ]
