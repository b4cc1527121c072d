"""The `cogni-billing` command."""

from cogni_billing.cli.app import main

__all__ = ["main"]
