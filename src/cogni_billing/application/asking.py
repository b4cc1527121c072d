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
    """A host's verifier, and the time that it has to answer.

    An answer that comes too late, and a `TimeoutError`, count as a payment that is still pending.

    Args:
        verifier: A `PaymentVerifier` to call, or an `AsyncPaymentVerifier` to await.
        seconds: The time for an answer, given as a `timedelta`.
    """

    _verifier: Any
    _seconds: float = field(converter=_seconds)
    _threads: BoundedSemaphore = field(factory=lambda: BoundedSemaphore(THREADS_MAX), init=False)

    def ask(self, evidence: str, intent: Intent) -> Finding:
        """Call the verifier in a thread of its own, which is abandoned when the time is up.

        Raises:
            VerifierFailed: the verifier raised an error, or did not return a finding.
        """
        if not self._threads.acquire(timeout=self._seconds):
            return _NO_ANSWER
        answer: Future[object] = Future()

        def call() -> None:
            try:
                answer.set_result(self._verifier.verify(evidence, intent))
            except BaseException as error:  # noqa: BLE001 (raised to the caller below)
                answer.set_exception(error)
            finally:
                self._threads.release()

        try:
            Thread(target=copy_context().run, args=(call,), daemon=True).start()
        except RuntimeError as error:  # the system has no more threads
            self._threads.release()
            raise _failed(intent, error) from error
        try:
            failure = answer.exception(self._seconds)
        except TimeoutError:
            return _NO_ANSWER
        return _finding(intent, answer.result() if failure is None else failure)

    async def ask_async(self, evidence: str, intent: Intent) -> Finding:
        """Await the verifier, and cancel it when the time is up.

        Raises:
            VerifierFailed: the verifier raised an error, or did not return a finding.
        """

        async def call() -> object:
            try:
                return await self._verifier.verify_async(evidence, intent)
            except SystemExit as error:  # which would end the loop
                return error

        answer = asyncio.ensure_future(call())
        try:
            # Unlike `asyncio.timeout`, it does not wait for a task that ignores cancellation.
            done, _ = await asyncio.wait({answer}, timeout=self._seconds)
        finally:
            answer.cancel()
        if not done:
            return _NO_ANSWER
        if answer.cancelled():  # by the verifier: this task goes on
            return _finding(intent, asyncio.CancelledError("cancelled"))
        failure = answer.exception()
        return _finding(intent, answer.result() if failure is None else failure)


@frozen
class Question:
    """A case that asks a verifier about a payment. It opens no unit of work."""

    verifier: Verifier
    evidence: str
    intent: Intent

    def on(self, _unit_of_work: UnitOfWork, /) -> Finding:
        return self.verifier.ask(self.evidence, self.intent)

    async def on_async(self, _unit_of_work: AsyncUnitOfWork, /) -> Finding:
        return await self.verifier.ask_async(self.evidence, self.intent)


def _finding(intent: Intent, answer: object) -> Finding:
    if isinstance(answer, TimeoutError):
        return _NO_ANSWER
    if isinstance(answer, BaseException):
        raise _failed(intent, answer) from answer
    try:
        return checked_finding(answer)
    except InvalidInput as error:
        raise _failed(intent, error) from error


def _failed(intent: Intent, error: BaseException) -> VerifierFailed:
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 (the verifier's error may be broken itself)
        message = "its message cannot be read"
    return VerifierFailed(intent.attempt_id, shown(f"{type(error).__name__}: {message}"))
