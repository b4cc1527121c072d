"""The in-memory twin of the Postgres adapter: the same promises and errors, no database.

For a host's own tests, and for trying the library out; it keeps nothing after the process.
"""

from cogni_billing.adapters.memory.unit_of_work import InMemoryUnitOfWork

__all__ = ["InMemoryUnitOfWork"]
