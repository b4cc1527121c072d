"""Folding: adding up what others have added to an account, so that nobody adds it up again."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class Folding:
    """What one fold did: how many accounts it found anything new on, and how many lines."""

    accounts: int
    lines: int
