"""Folding: sums of what others have added to an account, so that readers need not add it up."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class Folding:
    """The number of accounts that others had added to since the last fold, and of those lines."""

    accounts: int
    lines: int
