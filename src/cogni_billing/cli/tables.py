"""The tables that the command prints."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table
from rich.text import Text

from cogni_billing.adapters.postgres import Report, TrialBalance
from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.errors import escaped
from cogni_billing.domain.statements import Balance, Line
from cogni_billing.domain.verification import Invariant, Verification


def quantity(amount: Amount | None) -> str:
    """An amount with separated thousands, without its unit."""
    return "" if amount is None else f"{amount.value:,f}".replace(",", " ")


def cell(stored: str, style: str = "") -> Text:
    """Stored text as it is, without markup or emoji. Control characters are escaped."""
    return Text(escaped(stored), style)


def table(title: str | None, columns: Iterable[str], *, numeric: Iterable[str] = ()) -> Table:
    """An empty table. *numeric* columns are aligned to the right."""
    result = Table(title=title, title_justify="left", title_style="bold")
    for column in columns:
        result.add_column(column, justify="right" if column in set(numeric) else "left")
    return result


def statement_table(title: str, lines: Iterable[Line], balance: Balance) -> Table:
    """An account's lines, newest first, and its balance below."""
    columns = ("what", "reference", "credits", "balance after")
    result = table(title, columns, numeric=columns[2:])
    result.show_footer = True
    for line in lines:
        reference = cell(line.reference or "(another tenant's)")
        result.add_row(
            str(line.kind), reference, quantity(line.amount), quantity(line.balance_after)
        )
    result.columns[1].footer = "balance"
    result.columns[2].footer = quantity(balance.posted)
    return result


def trial_balance_table(report: TrialBalance) -> Table:
    """The balance of each kind of account, and the sum below."""
    result = table("The whole ledger, in CREDIT", ("account", "balance"), numeric=("balance",))
    result.show_footer = True
    for name, balance in report.balances.items():
        result.add_row(cell(name), quantity(balance))
    result.columns[0].footer = "sum"
    result.columns[1].footer = quantity(report.total)
    return result


def verification_table(verification: Verification, *, with_seals: bool) -> Table:
    """Each invariant, and its violations."""
    result = table(
        f"{verification.transactions} transactions, {verification.postings} postings",
        ("invariant", "finding"),
    )
    for invariant in Invariant:
        if invariant is Invariant.TRANSACTIONS_MATCH_THEIR_SEAL and not with_seals:
            continue
        broken = [found for found in verification.violations if found.invariant is invariant]
        for violation in broken:
            result.add_row(invariant.meaning, cell(str(violation), "red"))
        if not broken:
            result.add_row(invariant.meaning, "[green]ok")
    return result


def report_table(report: Report) -> Table:
    """Each check of the doctor, with its defects and their remedies."""
    result = table("doctor", ("check", "defect", "fix"))
    for check in report.checks:
        if check.ok:
            result.add_row(check.name, "[green]ok", "")
        for defect in check.defects:
            result.add_row(check.name, cell(defect.problem, "red"), cell(defect.remedy))
    return result
