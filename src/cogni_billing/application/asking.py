"""Asks a payment verifier, which may be slow, broken or silent, while no scope is open."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextvars import copy_context
from datetime import timedelta
from threading import BoundedSemaphore, Thread
from typing import Any, Final

from attrs import field, frozen

from cogni_billing.domain.attempt_limits import positive_span
from cogni_billing.domain.attempts import Intent
from cogni_billing.domain.errors import InvalidInput, VerifierFailed, shown
from cogni_billing.domain.findings import FailureCode, Finding, PaymentPending, checked_finding
from cogni_billing.ports.scope import AsyncUnitOfWork, UnitOfWork

ANSWERS_WITHIN: Final = timedelta(seconds=10)
"""The default time that a verifier has to answer."""
THREADS_MAX: Final = 100
"""The most threads that ask one verifier, including those whose time is up. When all are busy, a
call waits for one of them as long as it would wait for an answer."""
_NO_ANSWER: Final = PaymentPending(FailureCode.RPC_ERROR)


def _seconds(answers_within: timedelta) -> float:
    return positive_span(answers_within, "answers_within").total_seconds()


@frozen
class Verifier:
    """A host's verifier, and how long it has to answer.

    Args:
        verifier: A `PaymentVerifier` to call, or an `AsyncPaymentVerifier` to await.
        seconds: The time it has, given as a `timedelta`.
    """

    verifier: Any
    seconds: float = field(converter=_seconds)
    _threads: BoundedSemaphore = field(factory=lambda: BoundedSemaphore(THREADS_MAX), init=False)


@frozen
class Question:
    """A case that asks a verifier about a payment; it opens no unit of work.

    An answer that comes too late, and a `TimeoutError`, count as a payment that is still pending.

    Raises:
        VerifierFailed: the verifier raised any other error, or answered with no finding.
    """

    verifier: Verifier
    evidence: str
    intent: Intent

    def on(self, unit_of_work: UnitOfWork, /) -> Finding:  # noqa: ARG002 (no scope is open)
        threads, seconds = self.verifier._threads, self.verifier.seconds  # noqa: SLF001
        if not threads.acquire(timeout=seconds):
            return _NO_ANSWER
        answer: Future[object] = Future()

        def ask() -> None:
            try:
                answer.set_result(self.verifier.verifier.verify(self.evidence, self.intent))
            except BaseException as error:  # noqa: BLE001 (raised to the caller below)
                answer.set_exception(error)
            finally:
                threads.release()

        try:
            Thread(target=copy_context().run, args=(ask,), daemon=True).start()
        except RuntimeError as error:  # the system has no more threads
            threads.release()
            raise self._failed(error) from error
        try:
            failure = answer.exception(seconds)
        except TimeoutError:
            return _NO_ANSWER
        return self._finding(answer.result() if failure is None else failure)

    async def on_async(self, unit_of_work: AsyncUnitOfWork, /) -> Finding:  # noqa: ARG002
        async def ask() -> object:
            try:
                return await self.verifier.verifier.verify_async(self.evidence, self.intent)
            except SystemExit as error:  # which would end the loop
                return error

        answer = asyncio.ensure_future(ask())
        try:
            # Unlike `asyncio.timeout`, it does not wait for a task that ignores cancellation.
            done, _ = await asyncio.wait({answer}, timeout=self.verifier.seconds)
        finally:
            answer.cancel()
        if not done:
            return _NO_ANSWER
        if answer.cancelled():  # by the verifier: this task goes on
            return self._finding(asyncio.CancelledError("cancelled"))
        failure = answer.exception()
        return self._finding(answer.result() if failure is None else failure)

    def _finding(self, answer: object) -> Finding:
        if isinstance(answer, TimeoutError):
            return _NO_ANSWER
        if isinstance(answer, BaseException):
            raise self._failed(answer) from answer
        try:
            return checked_finding(answer)
        except InvalidInput as error:
            raise self._failed(error) from error

    def _failed(self, error: BaseException) -> VerifierFailed:
        try:
            message = str(error)
        except Exception:  # noqa: BLE001 (the verifier's error may be broken itself)
            message = "its message cannot be read"
        return VerifierFailed(self.intent.attempt_id, shown(f"{type(error).__name__}: {message}"))
