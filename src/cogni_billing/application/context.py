"""The clock, the id source, the policy and the prices that a host's calls share."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Self
from uuid import UUID

from attrs import field, frozen

from cogni_billing.domain.erasure import checked_retention
from cogni_billing.domain.policies import Policies, RevenueSharePolicy, checked_policies
from cogni_billing.domain.prices import Prices, checked_prices
from cogni_billing.domain.timestamps import utc
from cogni_billing.ports.environment import Clock, IdSource
from cogni_billing.ports.scope import Environment


@frozen
class Context:
    """The settings of one `Billing`, sync or async."""

    policy: Policies = field(converter=checked_policies)
    clock: Clock
    ids: IdSource
    retention: timedelta | None = field(default=None, converter=checked_retention)
    prices: Prices | None = field(default=None, converter=checked_prices)

    @classmethod
    def over(
        cls,
        environment: Environment,
        policy: Policies | None,
        clock: Clock | None,
        ids: IdSource | None,
        *,
        retention: timedelta | None = None,
        prices: Prices | None = None,
    ) -> Self:
        """The given settings. The defaults are the environment's, and the default policy."""
        return cls(
            RevenueSharePolicy.default() if policy is None else policy,
            environment.clock if clock is None else clock,
            environment.ids if ids is None else ids,
            retention,
            prices,
        )

    def now(self) -> datetime:
        """The present moment in UTC.

        Raises:
            InvalidTime: the clock is naive, or is not between 1970 and 9998.
        """
        return utc(self.clock.now(), "clock")

    def new_id(self) -> UUID:
        """A new identifier."""
        return self.ids.new()
