"""Adapters of the ports: ledgers in `memory` and `postgres`, and payment `verifiers`."""
