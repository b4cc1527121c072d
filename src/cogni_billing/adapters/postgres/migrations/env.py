"""Runs the revisions on the connection that `migrate` hands over.

A host with migrations of its own does not use this file: it adds the `versions` folder beside it
to its `version_locations`, and upgrades the branch `cogni_billing` from its own environment.
"""

from alembic import context

from cogni_billing.adapters.postgres.schema import VERSION_SCHEMA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=None,
    version_table_schema=VERSION_SCHEMA,
)
context.run_migrations()
