"""Values and rules of the ledger: no clock, no randomness, no I/O, no SQL; `Decimal` only."""
