"""An in-memory ledger with the promises and errors of the Postgres adapter, without a database.

It is for a host's own tests and for trying the library. It loses its data when the process ends.
"""

from cogni_billing.adapters.memory.unit_of_work import InMemoryUnitOfWork

__all__ = ["InMemoryUnitOfWork"]
