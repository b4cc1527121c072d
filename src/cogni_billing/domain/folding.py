"""Folding: writes balance checkpoints, so that reading a balance stays fast."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class Folding:
    """The number of accounts with new arrivals, and the number of these arrivals."""

    accounts: int
    lines: int
