"""The demonstration: real purchases on a real PostgreSQL, and each tenant's view of them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.resources import files
from typing import Any
from uuid import NAMESPACE_DNS, UUID, uuid5

from attrs import frozen
from rich.console import Console
from rich.table import Table
from sqlalchemy import URL, Engine, create_engine

from cogni_billing.adapters.postgres import PostgresUnitOfWork, trial_balance
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
    reference: str
    asked: str
    make: Callable[[], object]


def run_demo(console: Console, admin_url: URL | None) -> None:
    """Confirm the bundled payments in a temporary database, and show the results."""
    with ExitStack() as stack:
        database = stack.enter_context(_database(admin_url))
        roles = ("app_user", "app_spender", "app_service")
        engines = [create_engine(database.url(role)) for role in roles]
        for engine in engines:
            stack.callback(engine.dispose)
        _show(console, *engines)


@contextmanager
def _database(admin_url: URL | None) -> Iterator[Sandbox]:
    if admin_url is None:
        with EmbeddedPostgres() as server:
            yield server
    else:
        with temporary_database(admin_url) as database:
            yield database


def _show(console: Console, engine: Engine, spender_engine: Engine, service_engine: Engine) -> None:
    billing = Billing(PostgresUnitOfWork(engine, service=service_engine))
    spender = Billing(PostgresUnitOfWork(spender_engine))
    payments = bundled_payments()
    tenants = {payment.tenant: payment.tenant_id for payment in payments}
    for tenant in tenants.values():
        billing.open_account(tenant)

    console.print("\nEight confirmed payments arrive at the webhook. Some are invalid:\n")
    console.print(_confirmed(billing, payments))
    console.print(
        "\nA role that may spend credits but not create them spends, the promotion's credits first,"
        "\nand never more than are available:\n"
    )
    acme, globex = tenants["acme"], tenants["globex"]
    console.print(_called(billing, "acme spends", acme, _spending(billing, spender, acme)))
    console.print("\nA payment is refunded in part, with its share, and never in excess:\n")
    console.print(_called(billing, "globex returns", globex, _returning(billing, globex)))
    console.print("\nEach tenant sees its own postings only:\n")
    for name, tenant in tenants.items():
        lines = billing.statement(tenant).lines
        console.print(statement_table(f"{name} ({tenant})", lines, billing.balance(tenant)))
    console.print("\nThe service role reads across tenants, and all postings sum to zero:\n")
    for report in trial_balance(service_engine):
        console.print(trial_balance_table(report))
    verification = billing.verify()
    console.print(
        f"\nEvery invariant, checked over {verification.transactions} transactions and"
        f" {verification.postings} postings: {len(verification.violations)} violations.\n"
    )


def _confirmed(billing: Billing, payments: list[Payment]) -> Table:
    columns = ("tenant", "payment", "paid", "outcome", "credited", "share", "balance then")
    result = table("confirm_purchase", columns, numeric=("paid", *columns[4:]))
    for payment in payments:
        paid = (payment.tenant, payment.payment, str(payment.amount))
        try:
            receipt = billing.confirm_purchase(
                payment.tenant_id, payment.amount, payment=payment.payment
            )
        except BillingError as error:
            result.add_row(*paid, f"[red]{error.code}[/red]: {cell(str(error))}")
        else:
            share = total((share.amount for share in receipt.shares), CREDIT)
            outcome = "[yellow]replayed" if receipt.replayed else "[green]confirmed"
            amounts = (receipt.credited, share, receipt.balance)
            result.add_row(*paid, outcome, *map(quantity, amounts))
    return result


def _spending(billing: Billing, spender: Billing, tenant: UUID) -> Iterator[Call]:
    def hold() -> None:
        held.append(spender.hold(tenant, credits(50_000), reference="run-8").id)

    def grant() -> None:
        billing.grant(tenant, credits(5_000_000), source="promo:launch", reference="launch")

    held: list[UUID] = []
    charge, capture = partial(spender.charge, tenant), partial(spender.capture, tenant)
    mint = partial(spender.confirm_purchase, tenant, usd("9.00"), payment="stripe:pi_forged")
    yield Call("grant", "launch", "5 000 000", grant)
    yield Call("charge", "run-7", "1 200", lambda: charge(credits(1_200), reference="run-7"))
    yield Call("hold", "run-8", "50 000", hold)
    yield Call(
        "capture", "run-8", "31 000", lambda: capture(held[0], credits(31_000), reference="run-8")
    )
    yield Call("charge", "run-9", "10^12", lambda: charge(credits(10**12), reference="run-9"))
    yield Call("confirm_purchase", "pi_forged", "9.00 USD", mint)


def _returning(billing: Billing, tenant: UUID) -> Iterator[Call]:
    on: Any = {"payment": "stripe:pi_3Mq2"}
    refund = partial(billing.refund, tenant, **on)
    dispute, win = (
        partial(billing.open_dispute, tenant, **on),
        partial(billing.win_dispute, tenant, **on),
    )
    yield Call("refund", "re_1", "20.00 USD", lambda: refund(amount=usd("20.00"), reference="re_1"))
    yield Call("refund", "re_2", "40.00 USD", lambda: refund(amount=usd("40.00"), reference="re_2"))
    yield Call("open_dispute", "dp_1", "the rest", lambda: dispute(reference="dp_1"))
    yield Call("win_dispute", "dp_1", "", lambda: win(reference="dp_1"))


def _called(billing: Billing, title: str, tenant: UUID, calls: Iterable[Call]) -> Table:
    columns = ("call", "reference", "requested", "outcome", "balance", "held", "cogni_system's")
    result = table(title, columns, numeric=(columns[2], *columns[4:]))
    for call in calls:
        try:
            call.make()
            outcome = "[green]done"
        except BillingError as error:
            outcome = f"[red]{error.code}[/red]: {cell(str(error))}"
        own, system = billing.balance(tenant), billing.balance(SYSTEM_TENANT_ID)
        figures = map(quantity, (own.posted, own.held, system.available))
        result.add_row(call.name, call.reference, call.asked, outcome, *figures)
    return result


def bundled_payments() -> list[Payment]:
    """The payments in the package, in the order of their arrival."""
    with files("cogni_billing.cli").joinpath("payments.csv").open(encoding="utf-8") as lines:
        return [
            Payment(line["tenant"], line["payment"], parsed(line["amount"]))
            for line in csv.DictReader(lines)
        ]
