"""What keeps the ports' promises: `memory` and `postgres` a ledger's, `verifiers` a verifier's."""
