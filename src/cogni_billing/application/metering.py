"""Metered runs: costs that come in small parts, captured together out of one hold."""

from __future__ import annotations

from contextlib import suppress
from typing import Self

from attrs import frozen

from cogni_billing.application import spending
from cogni_billing.application.cases import Steps, in_steps
from cogni_billing.application.context import Context
from cogni_billing.domain.amounts import Amount
from cogni_billing.domain.errors import HoldClosed
from cogni_billing.domain.metering import Meter
from cogni_billing.domain.timestamps import Expiry
from cogni_billing.ports.scope import AsyncUnitOfWork, UnitOfWork


@frozen
class _Run:
    _context: Context
    _meter: Meter

    @property
    def charged(self) -> Amount:
        """The captured costs, in CREDIT."""
        return self._meter.charged

    @property
    def pending(self) -> Amount:
        """The added costs that are not captured, in CREDIT. The tenant has not paid them."""
        return self._meter.pending

    @property
    def remaining(self) -> Amount:
        """The part of the limit that is neither captured nor pending, in CREDIT."""
        return self._meter.remaining


@frozen
class Metered(_Run):
    """A metered run. `Billing.metered` makes it, for one `with` statement of one thread."""

    _unit_of_work: UnitOfWork

    def __enter__(self) -> Self:
        """Open the hold of the limit."""
        _begin(self._context, self._meter).on(self._unit_of_work)
        return self

    def add(self, amount: Amount) -> None:
        """Add a cost, in CREDIT, zero or more. See `Billing.metered`."""
        _add(self._context, self._meter, amount).on(self._unit_of_work)

    def __exit__(self, *_: object) -> None:
        """Capture what is pending, and release the rest, also after an exception."""
        _end(self._context, self._meter).on(self._unit_of_work)


@frozen
class AsyncMetered(_Run):
    """A metered run. `AsyncBilling.metered` makes it, for one `async with` of one task."""

    _unit_of_work: AsyncUnitOfWork

    async def __aenter__(self) -> Self:
        """Open the hold of the limit."""
        await _begin(self._context, self._meter).on_async(self._unit_of_work)
        return self

    async def add(self, amount: Amount) -> None:
        """Add a cost, in CREDIT, zero or more. See `AsyncBilling.metered`."""
        await _add(self._context, self._meter, amount).on_async(self._unit_of_work)

    async def __aexit__(self, *_: object) -> None:
        """Capture what is pending, and release the rest, also after an exception."""
        await _end(self._context, self._meter).on_async(self._unit_of_work)


@in_steps
def _begin(context: Context, meter: Meter) -> Steps[None]:
    meter.begin((yield spending.hold(context, meter.hold_request())))


@in_steps
def _add(context: Context, meter: Meter, amount: object) -> Steps[None]:
    meter.add(amount)
    now = context.now()
    if meter.capture_is_due(now):
        yield from _capture(context, meter)
    if meter.renewal_is_due(now):
        yield spending.extend(
            context,
            meter.tenant,
            meter.running(),
            None,
            expiry=Expiry(expires_in=meter.ttl),
            reference=meter.renewal_reference,
        )
        meter.renewed(now)


@in_steps
def _end(context: Context, meter: Meter) -> Steps[None]:
    hold_id = meter.running()
    if meter.capture_is_unknown:
        yield from _capture(context, meter)
    if not meter.pending.is_zero:
        yield from _capture(context, meter, final=True)
    else:
        with suppress(HoldClosed):  # it has expired, so nothing is held
            yield spending.release(context, meter.tenant, hold_id, None, reference=None)
    meter.end()


def _capture(context: Context, meter: Meter, *, final: bool = False) -> Steps[None]:
    request = meter.capture_request(final=final)
    yield spending.capture(context, request)
    meter.captured(request.amount, context.now())
