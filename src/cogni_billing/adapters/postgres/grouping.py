"""Group commit: transactions of several callers share a call and a COMMIT.

There is no timer and no added wait. An idle lane sends at once. Transactions that arrive while a
lane is busy go with its next call. A caller gets its answer after COMMIT.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary, WeakSet

from attrs import define, field, frozen

from cogni_billing.adapters.postgres.answers import MORE_DUE
from cogni_billing.adapters.postgres.calls import decoded, encoded
from cogni_billing.adapters.postgres.connections import after_fork
from cogni_billing.adapters.postgres.contexts import Context
from cogni_billing.adapters.postgres.rows import movement
from cogni_billing.adapters.postgres.schema import SCHEMA
from cogni_billing.domain.errors import BillingError, InvalidInput, shown
from cogni_billing.domain.identity import TenantId
from cogni_billing.domain.transactions import Transaction

LANES_MAX: Final = 64
BATCH_MAX: Final = 1000


def _count(limit: int) -> Callable[[Any, Any, object], None]:
    def check(_instance: object, attribute: Any, given: object) -> None:
        if type(given) is not int or not 1 <= given <= limit:
            expected = f"a whole number from 1 to {limit}"
            raise InvalidInput(attribute.name, shown(given), expected)

    return check


@frozen(kw_only=True)
class GroupCommit:
    """Limits of group commit.

    Args:
        lanes: The number of concurrent calls, 1 to 64, each on a connection of the pool. A tenant's
            transactions use the same lane, which keeps their order.
        max_batch: The most transactions in a call, 1 to 1000.

    Raises:
        InvalidInput: an argument is out of its range.
    """

    lanes: int = field(default=2, validator=_count(LANES_MAX))
    max_batch: int = field(default=64, validator=_count(BATCH_MAX))


Answer: TypeAlias = Any
"""The database's answer to a transaction. `None` if it must be posted by itself."""
Send: TypeAlias = Callable[[Sequence[Transaction]], list[Answer]]
SendAsync: TypeAlias = Callable[[Sequence[Transaction]], Awaitable[list[Answer]]]


@frozen
class Batch:
    """Transactions that share a call.

    Tenants are in the order of their ids, so that concurrent calls lock wallets in the same order.
    """

    transactions: Sequence[Transaction]

    def statement(self, context: Context) -> tuple[str, tuple[object, ...]]:
        """Build the statement that posts the transactions, and its parameters."""
        groups = [
            {
                "owner": tenant,
                "proof": context.proof(tenant),
                "movements": [movement(self.transactions[place]) for place in places],
            }
            for tenant, places in self._places()
        ]
        mints = any(transaction.kind.is_credit for transaction in self.transactions)
        door = f"SELECT {SCHEMA}.{'mint' if mints else 'spend'}_groups(%s)"
        return door, (encoded(groups),)

    def answers(self, told: str) -> list[Answer]:
        """Match the answers to the transactions."""
        answers: list[Answer] = [None] * len(self.transactions)
        for (_, places), group in zip(self._places(), decoded(told), strict=True):
            # A wallet with too many due expirations gets fewer answers.
            for place, answer in zip(places, group, strict=False):
                answers[place] = answer if answer["outcome"] != MORE_DUE else None
        return answers

    def _places(self) -> list[tuple[TenantId, list[int]]]:
        places: dict[TenantId, list[int]] = {}
        for place, transaction in enumerate(self.transactions):
            places.setdefault(transaction.tenant, []).append(place)
        return sorted(places.items())


@define(eq=False)
class _Waiting:
    """A transaction, and the thread that waits for its answer."""

    transaction: Transaction
    answer: Answer = None
    done: bool = False
    leads: bool = False
    woken: threading.Event = field(factory=threading.Event)


@define(eq=False)
class _Lane:
    waiting: deque[_Waiting] = field(factory=deque)
    busy: bool = False
    lock: threading.Lock = field(factory=threading.Lock)

    def join(self, mine: _Waiting) -> None:
        """Add *mine*. The first transaction in the lane leads."""
        with self.lock:
            self.waiting.append(mine)
            mine.leads, self.busy = not self.busy, True

    def leave(self, mine: _Waiting) -> None:
        """Remove *mine*. If it was the leader, the next transaction leads."""
        with self.lock:
            if mine in self.waiting:
                self.waiting.remove(mine)
            if mine.leads and not mine.done:
                self._hand_over()

    def take(self, limit: int) -> list[_Waiting]:
        """Take the next transactions to send, the leader's included."""
        with self.lock:
            return [self.waiting.popleft() for _ in range(min(len(self.waiting), limit))]

    def deliver(self, batch: list[_Waiting], answers: list[Answer]) -> None:
        """Deliver the answers, and wake their callers and the next leader."""
        with self.lock:
            for each, answer in zip(batch, answers, strict=True):
                each.answer, each.done = answer, True
            self._hand_over()
        for each in batch:  # each caller may want the lock next
            each.woken.set()

    def _hand_over(self) -> None:
        self.busy = bool(self.waiting)
        if self.waiting:
            self.waiting[0].leads = True
            self.waiting[0].woken.set()


class Lanes:
    """Lanes for threads. A thread that finds its lane free sends all transactions that wait there.

    A forked process starts with empty lanes.
    """

    def __init__(self, options: GroupCommit, send: Send) -> None:
        self._options, self._send = options, send
        self.renew()
        _all_lanes.add(self)

    def renew(self) -> None:
        """Start with empty lanes: a thread of the parent may hold a lock of the old ones."""
        self._lanes = [_Lane() for _ in range(self._options.lanes)]

    def post(self, transaction: Transaction) -> Answer:
        """Post *transaction*, and return its answer."""
        lane = self._lanes[transaction.tenant.int % len(self._lanes)]
        mine = _Waiting(transaction)
        lane.join(mine)
        try:
            if not mine.leads:
                mine.woken.wait()
            if not mine.done:
                self._lead(lane)
        except BaseException:
            lane.leave(mine)
            raise
        return mine.answer

    def _lead(self, lane: _Lane) -> None:
        batch = lane.take(self._options.max_batch)
        answers: list[Answer] = [None] * len(batch)
        try:
            answers = self._send([each.transaction for each in batch])
        except BillingError:
            pass  # each is posted by itself, and gets its own answer
        finally:
            lane.deliver(batch, answers)


_all_lanes: WeakSet[Lanes] = WeakSet()


def _renew_inherited() -> None:
    """Renew the lanes of a forked process, before it has a second thread."""
    for lanes in _all_lanes:
        lanes.renew()


after_fork(_renew_inherited)


@define(eq=False)
class _AsyncLane:
    waiting: deque[tuple[Transaction, asyncio.Future[Answer]]] = field(factory=deque)
    sender: asyncio.Task[None] | None = None


class AsyncLanes:
    """Lanes for tasks.

    Each lane has a task that sends. So a cancelled caller does not cancel the transactions of
    others.
    """

    def __init__(self, options: GroupCommit, send: SendAsync) -> None:
        self._options, self._send = options, send
        self._lanes: WeakKeyDictionary[asyncio.AbstractEventLoop, list[_AsyncLane]]
        self._lanes = WeakKeyDictionary()

    async def post(self, transaction: Transaction) -> Answer:
        """Post *transaction*, and return its answer."""
        loop = asyncio.get_running_loop()
        if loop not in self._lanes:
            self._lanes[loop] = [_AsyncLane() for _ in range(self._options.lanes)]
        lane = self._lanes[loop][transaction.tenant.int % self._options.lanes]
        answer: asyncio.Future[Answer] = loop.create_future()
        lane.waiting.append((transaction, answer))
        if lane.sender is None:
            lane.sender = loop.create_task(self._sending(lane))
        return await answer

    async def _sending(self, lane: _AsyncLane) -> None:
        try:
            while lane.waiting:
                count = min(len(lane.waiting), self._options.max_batch)
                taken = [lane.waiting.popleft() for _ in range(count)]
                await self._send_all([each for each in taken if not each[1].done()])
        finally:
            lane.sender = None
            while lane.waiting:  # the loop is shutting down
                lane.waiting.popleft()[1].cancel()

    async def _send_all(self, batch: list[tuple[Transaction, asyncio.Future[Answer]]]) -> None:
        answers: list[Answer] = [None] * len(batch)
        try:
            if batch:
                answers = await self._send([transaction for transaction, _ in batch])
        except BillingError:
            pass  # each is posted by itself, and gets its own answer
        finally:
            for (_, waiting), answer in zip(batch, answers, strict=True):
                if not waiting.done():
                    waiting.set_result(answer)


def is_groupable(transaction: Transaction) -> bool:
    """True if *transaction* may share a commit. Those of the service role are posted one by one."""
    return not (transaction.kind.reverses or transaction.kind.corrects)
