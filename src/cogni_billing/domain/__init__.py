"""Values and rules of the ledger. No clock, randomness, I/O or SQL, and no float arithmetic."""
