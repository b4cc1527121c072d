"""Names of the schemas, and the SQL that creates their objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Final

from cogni_billing.domain.identity import AccountId
from cogni_billing.domain.kinds import KINDS, KindRules, TransactionKind

SCHEMA: Final = "cogni_billing"
VERSION_SCHEMA: Final = "cogni_billing_migrations"
HEAD: Final = "cogni_billing_0001"
"""The newest revision of this version."""

FUNCTION_FILES: Final = (
    "contexts.sql",
    "schedules.sql",
    "spending.sql",
    "posting.sql",
    "holds.sql",
    "grants.sql",
    "reading.sql",
    "disputes.sql",
    "folding.sql",
    "attempts.sql",
    "inbox.sql",
    "erasure.sql",
    "freezing.sql",
    "overdrafts.sql",
    "openings.sql",
)

DEFINER_SETTINGS: Final = {
    "search_path": "pg_catalog, pg_temp",
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    # A call reads a few rows. Compiling its plan or starting workers takes longer.
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
    "row_security": "on",
    # A caller could have plans sent to it. They hold estimates of all rows.
    "debug_print_plan": "off",
    "TimeZone": "utc",
    # Regular expressions in the functions have backslashes.
    "standard_conforming_strings": "on",
}
"""Settings of each function that a role may call."""

_FUNCTION: Final = re.compile(rf"CREATE FUNCTION {SCHEMA}\.(\w+)\(.*?AS \$\$(.*?)\$\$;", re.DOTALL)


def tables_sql() -> str:
    """Return the statements that create the tables and their indexes."""
    return _read("tables.sql")


@cache
def functions_sql() -> str:
    """Return the statements that create the functions.

    The settings and the rules of kinds are filled in. Each function that a role may call has a
    door.
    """
    sql = "\n".join(map(_read, FUNCTION_FILES))
    for name, made in {**_kinds(), "settings": _SETTINGS}.items():
        sql = sql.replace(f"/* {name} */", made)
    return sql + "".join(_doors())


def _doors() -> Iterator[str]:
    """Write the doors. A door validates the proof, acts for the tenant, and calls its function."""
    act = f"{SCHEMA}.act(owner, proof)"
    for name in re.findall(rf"FUNCTION {SCHEMA}\._(\w+)", "".join(map(_read, FUNCTION_FILES))):
        call = f"{SCHEMA}._{name}({act}, asked)"
        yield _door(f"{name}(owner uuid, proof text, asked json)", call)
    for name in ("spend", "mint", "reverse", "adjust"):
        call = f"{SCHEMA}.post({act}, asked, {_kind_list(name)}, all_or_none)"
        arguments = "owner uuid, proof text, asked json[], all_or_none boolean DEFAULT false"
        yield _door(f"{name}({arguments})", call)
    yield _door("spend_groups(groups json)", f"{SCHEMA}.post_groups(groups, {_kind_list('spend')})")
    both = f"{_kind_list('spend')} || {_kind_list('mint')}"
    yield _door("mint_groups(groups json)", f"{SCHEMA}.post_groups(groups, {both})")


def _door(signature: str, call: str) -> str:
    return f"""
CREATE FUNCTION {SCHEMA}.{signature} RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
{_SETTINGS}
AS $$
BEGIN
    RETURN {call};
END
$$;
"""


_SETTINGS: Final = "\n".join(f"SET {name} = {value}" for name, value in DEFINER_SETTINGS.items())


def _kind_list(door: str) -> str:
    return f"ARRAY[{_kinds()[door]}]"


@cache
def function_sources() -> dict[str, str]:
    """Return the body of each function by its name."""
    return dict(_FUNCTION.findall(functions_sql()))


def _read(name: str) -> str:
    return files(__package__).joinpath("sql", name).read_text("utf-8")


def _kinds() -> dict[str, str]:
    """Write the rules of `KINDS` as SQL, by placeholder."""
    contra = {kind: rules.contra for kind, rules in KINDS.items()}
    absorbs = {kind: rules.absorbs for kind, rules in KINDS.items() if rules.absorbs}
    lists = {
        name: ", ".join(f"'{kind}'" for kind, rules in KINDS.items() if belongs(rules))
        for name, belongs in _LISTS.items()
    }
    return lists | {"contra": _cases(contra), "absorbs": _cases(absorbs)}


def _cases(accounts: Mapping[TransactionKind, AccountId]) -> str:
    """Write the account of each kind as the branches of CASE."""
    return "\n        ".join(
        f"WHEN '{kind}'::pg_catalog.text THEN '{account}'::pg_catalog.uuid"
        for kind, account in accounts.items()
    )


_LISTS: Final[dict[str, Callable[[KindRules], object]]] = {
    "is_credit": lambda rules: rules.is_credit,
    "corrects": lambda rules: rules.corrects,
    "may_be_zero": lambda rules: rules.may_be_zero,
    "opens_account": lambda rules: rules.opens_account,
    "names_another": lambda rules: rules.reverses or rules.gives_back,
    "has_reason": lambda rules: rules.corrects or rules.gives_back,
    "is_usage": lambda rules: rules.is_usage,
    "has_shares": lambda rules: rules.has_shares,
    "subject": lambda rules: rules.subject,
    "plain_debit": lambda rules: rules.is_plain_debit,
    "gives_back": lambda rules: rules.gives_back or rules.reinstates,
    "mint": lambda rules: rules.is_credit and not rules.reverses,
    # `settle_dispute` records chargebacks.
    "reverse": lambda rules: rules.reverses and rules.subject != "dispute",
    "adjust": lambda rules: rules.corrects,
    # Only the ledger posts expiries.
    "spend": lambda rules: (
        not (
            rules.is_credit
            or rules.corrects
            or rules.opens_balance
            or rules.reverses
            or rules.subject == "grant"
        )
    ),
}
