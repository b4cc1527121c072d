"""Schedules of grants: they are made, ended and listed."""

from __future__ import annotations

from uuid import UUID

from cogni_billing.application.acting import acted
from cogni_billing.application.cases import SingleCase
from cogni_billing.application.context import Context
from cogni_billing.domain.errors import InvalidInput, shown
from cogni_billing.domain.identity import tenant_id
from cogni_billing.domain.schedules import (
    Schedule,
    ScheduleRequest,
    checked_schedule_id,
    plan_schedule,
)
from cogni_billing.domain.statements import GrantPage, checked_limit


def schedule_grants(context: Context, request: ScheduleRequest) -> SingleCase[Schedule]:
    planned = acted(plan_schedule(request, at=context.now(), schedule_id=context.new_id()))
    return SingleCase(request.tenant, lambda scope: scope.ledger.schedule(planned))


def end_schedule(context: Context, tenant: object, schedule_id: object) -> SingleCase[Schedule]:
    owner, ended, now = tenant_id(tenant), checked_schedule_id(schedule_id), context.now()
    return SingleCase(owner, lambda scope: scope.ledger.end_schedule(ended, now))


def schedules(
    context: Context, tenant: object, *, limit: object, after: object
) -> SingleCase[tuple[Schedule, ...]]:
    owner, now = tenant_id(tenant), context.now()
    if after is not None and not isinstance(after, UUID):
        raise InvalidInput("after", shown(after), "the id of a schedule, a uuid.UUID")
    page = GrantPage(limit=checked_limit(limit), after=after and UUID(int=after.int))
    return SingleCase(owner, lambda scope: scope.ledger.schedules(now, page))
