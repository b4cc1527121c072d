"""What keeps the ports' promises: `memory` without a database, `postgres` with one; `verifiers`."""
