"""Every kind of transaction is named in a contract of the kit."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from cogni_billing import TransactionKind
from cogni_billing.testing import contracts

FOLDER = Path(contracts.__file__).parent


def named_in(source: str) -> set[str]:
    """The members of `TransactionKind` in the code of *source*, without comments and strings."""
    return {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "TransactionKind"
    }


def without_a_contract(names: list[str]) -> list[str]:
    found = {name for path in FOLDER.glob("*.py") for name in named_in(path.read_text())}
    return [name for name in names if name not in found]


def test_every_kind_has_a_contract() -> None:
    assert without_a_contract([kind.name for kind in TransactionKind]) == []


def test_a_kind_without_a_contract_is_found() -> None:
    assert without_a_contract(["PURCHASE", "GIFT"]) == ["GIFT"]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("x = TransactionKind.GIFT", {"GIFT"}),
        ("# TransactionKind.GIFT", set()),
        ("'TransactionKind.GIFT'", set()),
        ("Other.GIFT", set()),
    ],
)
def test_a_name_counts_in_code_only(source: str, names: set[str]) -> None:
    assert named_in(source) == names
