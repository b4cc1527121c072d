"""Payment verifiers: `evm` for tokens on a chain (extra `evm`), `webhooks` for card processors.

The library imports neither module. The host does.
"""

from cogni_billing.adapters.verifiers.routing import ByProvider

__all__ = ["ByProvider"]
