"""The ledger of the scope's tenant."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from cogni_billing.domain.disputes import Dispute
from cogni_billing.domain.errors import BillingError
from cogni_billing.domain.grants import Grant, GrantExtension, Lot
from cogni_billing.domain.hold_changes import Extension, Release
from cogni_billing.domain.holds import Hold, HoldPageRequest
from cogni_billing.domain.kinds import TransactionKind
from cogni_billing.domain.openings import Opened, Opening
from cogni_billing.domain.payments import Payment
from cogni_billing.domain.schedules import Schedule
from cogni_billing.domain.statements import Balance, Extract, GrantPage, PageRequest
from cogni_billing.domain.transactions import Recorded, Transaction


class LedgerRepository(Protocol):
    """Records transactions, and reads the tenant's own side of them.

    Grants that begin later, and periods of schedules, are due when they begin. Starts are posted
    and read like expirations, which means both below. At one moment, expirations come first.

    Every method but `replay`, `payment`, `dispute` and `expire_due` raises `UnknownAccount` if the
    tenant has no account, except `schedule`, and `post` for a kind that opens one. Reads also
    answer for a tenant that has only earned shares, whose account no call has opened yet.
    """

    def post(self, transaction: Transaction, /) -> Recorded:
        """Record *transaction*, or find the stored transaction with its key.

        The key is the kind and the reference. The reference of a purchase is its payment. A
        purchase or a grant opens its tenant's account unless it has one. A stored transaction of
        the same request is returned with `replayed` set. If the call raises, the transaction is not
        recorded.

        In a single-call scope (`UnitOfWork.post`, `UnitOfWork.single`) the expirations that were
        due on the wallet stay recorded if the ledger's state refuses the call: InvalidTime,
        AccountFrozen, InsufficientCredits, UnknownHold, HoldClosed, PaymentAlreadyClaimed. All
        other errors are decided first and record no expiration.

        Raises:
            IdempotencyConflict: the tenant used the key for another request.
            PaymentAlreadyClaimed: another tenant's purchase has the payment.
            UnknownAccount: the tenant has no account, and the kind does not open one.
            InvalidTime: the new grant would have expired already, or the usage of a charge is in
                the future, too long ago, or before the account was opened.
            AccountFrozen: the account is frozen, and the transaction spends available credits.
            InsufficientCredits: less is available and the transaction allows no overdraft, or less
                is held and the capture allows no overrun.
            UnknownHold, HoldClosed: the captured hold is unknown, or has ended.
            PrivilegeRequired: the transaction is of another tenant, or mints in a scope that may
                not.
            LedgerCorruption: the transaction's id is taken.
            UnbalancedTransaction: its kind is unknown, or is `EXPIRY` or `VOID`, whose amount the
                ledger fills in.
        """
        ...

    def post_many(
        self, transactions: Sequence[Transaction], /, *, all_or_nothing: bool
    ) -> Sequence[Recorded | BillingError]:
        """Post *transactions* of one kind, in order. Returns the answer to each.

        A refused transaction is not recorded, and the others are. With *all_or_nothing*, a refused
        transaction keeps all others from being recorded, and `OthersRefused` is the answer to each
        of the others. Expirations that were due before the first post stay recorded, whatever the
        answers are: always for several transactions, and for one unless its key, its payment or a
        missing account answers it.

        Raises:
            PrivilegeRequired: the transactions mint, and the scope may not.
        """
        ...

    def replay(self, kind: TransactionKind, reference: str, /) -> Recorded | None:
        """The tenant's transaction with this key, marked as a replay, or `None`.

        It decides whether a call is a replay, so a tenant without an account is no error here.
        """
        ...

    def find(self, kind: TransactionKind, reference: str, /) -> Recorded | None:
        """The tenant's transaction with this key, marked as a replay, or `None`.

        Raises:
            UnknownAccount: the tenant has no account, and has earned no share.
        """
        ...

    def transaction(self, transaction_id: UUID, /) -> Recorded | None:
        """The tenant's transaction with this id, marked as a replay, or `None`.

        Raises:
            UnknownAccount: the tenant has no account, and has earned no share.
        """
        ...

    def payment(self, payment: str, now: datetime, /) -> Payment | None:
        """The tenant's purchase of this payment, with its returned and disputed amounts.

        Due expirations count for the credits that are left of it and those that have expired.
        """
        ...

    def dispute(self, reference: str, /) -> Dispute | None:
        """The tenant's dispute of this reference, in its present state."""
        ...

    def hold(self, hold: Hold, /) -> Hold:
        """Record *hold*, or find the open hold with its reference, as it is now.

        A refused hold in a single-call scope leaves due expirations recorded, as `post` does. A
        replay records no expiration.

        Raises:
            IdempotencyConflict: the tenant used the reference for another request.
            HoldClosed: the hold with the reference has ended.
            UnknownAccount: the tenant has no account.
            InvalidTime: the hold would have expired already.
            AccountFrozen: the account is frozen.
            InsufficientCredits: less is available.
            LedgerCorruption: the hold's id is taken.
        """
        ...

    def extend(self, extension: Extension, /) -> Hold:
        """Set more credits aside for an open hold, move its expiry, or both.

        Returns the hold as it is now. A refused extension in a single-call scope leaves due
        expirations recorded, as `post` does. A replay records no expiration.

        Raises:
            IdempotencyConflict: the tenant used the reference for another extension.
            UnknownAccount: the tenant has no account.
            UnknownHold: the tenant has no such hold.
            HoldClosed: the hold has ended, also if the extension is a replay.
            InvalidTime: the new expiry has passed.
            InsufficientCredits: less is available.
        """
        ...

    def release(self, hold_id: UUID, moment: datetime, /) -> Hold:
        """Release the credits of the hold. A hold that was released before comes back `replayed`.

        A refused release in a single-call scope leaves due expirations recorded, as `post` does.

        Raises:
            UnknownAccount: the tenant has no account.
            UnknownHold: the tenant has no such hold.
            HoldClosed: the hold was captured, or had expired.
        """
        ...

    def release_part(self, release: Release, /) -> Hold:
        """Release a part of an open hold by its key. A release of all that is held ends the hold.

        Returns the hold as it is now. A refused release in a single-call scope leaves due
        expirations recorded, as `post` does. A replay records no expiration.

        Raises:
            IdempotencyConflict: the tenant used the reference for another release.
            UnknownAccount: the tenant has no account.
            UnknownHold: the tenant has no such hold.
            HoldClosed: the hold has ended.
            InsufficientCredits: less is held.
        """
        ...

    def find_hold(self, reference: str, now: datetime, /) -> Hold | None:
        """The tenant's hold with this reference in any state, as it is now, or `None`.

        Raises:
            UnknownAccount: the tenant has no account, and has earned no share.
        """
        ...

    def holds(self, page: HoldPageRequest, now: datetime, /) -> tuple[Hold, ...]:
        """The tenant's open holds that the page admits, newest first.

        Returns one hold more than the page's limit if there are that many.

        Raises:
            UnknownAccount: the tenant has no account, and has earned no share.
        """
        ...

    def void_grant(self, void: Transaction, /) -> Recorded:
        """Record *void* with the remaining credits of its grant, or find it by its key.

        The grant ends. A refused call in a single-call scope leaves due expirations recorded, as
        `post` does.

        Raises:
            IdempotencyConflict: the tenant used the key for another request.
            UnknownAccount: the tenant has no account.
            UnknownGrant: the tenant has no such grant.
            PrivilegeRequired: the scope may not mint.
            LedgerCorruption: the transaction's id is taken.
        """
        ...

    def record_opening(self, opening: Opening, /) -> Opened:
        """Record all transactions of *opening*, or find the tenant's opening.

        Its grants come first, in order. The lines are dated at the opening's moment, or at the
        wallet's own if that is later. Opens the account, as of the opening's moment.

        Raises:
            IdempotencyConflict: the tenant has another opening.
            AccountInUse: the tenant has other transactions of its own, or a schedule.
            InvalidTime: a grant has expired by the wallet's own time.
            PrivilegeRequired: the scope is not of the service role.
            LedgerCorruption: the id of a transaction is taken.
        """
        ...

    def extend_grant(self, extension: GrantExtension, /) -> GrantExtension:
        """Move the expiry of a grant to a later moment, or find the extension by its reference.

        A refused call in a single-call scope leaves due expirations recorded, as `post` does.

        Raises:
            IdempotencyConflict: the tenant used the reference for another extension.
            UnknownAccount: the tenant has no account.
            UnknownGrant: the tenant has no such grant.
            GrantClosed: the grant has expired, or was voided.
            InvalidTime: the grant never expires, or expires no earlier.
            PrivilegeRequired: the scope may not mint.
        """
        ...

    def schedule(self, plan: Schedule, /) -> Schedule:
        """Record *plan*, or find the schedule with its reference, as it is now.

        Opens the account unless the tenant has one. The schedule that the plan replaces ends, and
        what is left of the grants of its latest period is voided. The grants of the period that
        contains the present are made at once.

        A refused call in a single-call scope leaves due expirations and starts recorded, as `post`
        does.

        Raises:
            IdempotencyConflict: the tenant used the reference for another schedule.
            UnknownSchedule: the tenant has no such schedule to replace.
            PrivilegeRequired: the scope may not mint.
            LedgerCorruption: the schedule's id is taken.
        """
        ...

    def end_schedule(self, schedule_id: UUID, moment: datetime, /) -> Schedule:
        """End the schedule: no more period begins. An ended schedule comes back `replayed`.

        Raises:
            UnknownAccount: the tenant has no account.
            UnknownSchedule: the tenant has no such schedule. A single grant that begins later is
                none: `void_grant` ends it.
            PrivilegeRequired: the scope may not mint.
        """
        ...

    def schedules(self, now: datetime, page: GrantPage, /) -> tuple[Schedule, ...]:
        """The tenant's schedules and waiting grants on this page, newest first, as they are now.

        The order is by `created_at` and the id. A schedule that has ended, and a grant that has
        begun, stay in it.

        Raises:
            UnknownAccount: the tenant has no account, and has earned no share.
        """
        ...

    def expire_due(self, moment: datetime, /) -> bool:
        """Post the expirations that are due by *moment*, each at its own moment.

        Returns true if any were due. Every call that writes does so first. Every read takes them
        into account.
        """
        ...

    def grants(self, now: datetime, /) -> tuple[Grant, ...]:
        """The tenant's grants that have credits left, in spend order.

        Raises:
            UnknownAccount: the tenant has no account, and has earned no share.
        """
        ...

    def lots(self, now: datetime, /) -> tuple[Lot, ...]:
        """The purchased credits that expire, in spend order, of purchases with credits left.

        Raises:
            UnknownAccount: the tenant has no account.
        """
        ...

    def all_grants(self, now: datetime, page: GrantPage, /) -> tuple[Grant, ...]:
        """The tenant's grants on this page, newest first, with or without credits left.

        Raises:
            UnknownAccount: the tenant has no account, and has earned no share.
        """
        ...

    def balance(self, now: datetime, /) -> Balance:
        """The tenant's balance now. It is zero if the account has no postings.

        Raises:
            UnknownAccount: the tenant has no account, and has earned no share.
        """
        ...

    def balance_at(self, moment: datetime, /) -> Balance:
        """The tenant's balance as of *moment*, including postings of that moment.

        Raises:
            UnknownAccount: the tenant has no account, and has earned no share.
        """
        ...

    def lines(self, page: PageRequest, /) -> Extract:
        """Lines of the tenant's account that the page admits, newest first.

        Returns one line more than the page's limit if there are that many, so the caller knows
        that there is a next page. The balances are those before and after the page's interval,
        whatever its kind and cursor. An expiration that is due by the page's `now` is a line with
        the reference, the id, the moment and the balance that it is posted with.

        Raises:
            UnknownAccount: the tenant has no account, and has earned no share.
        """
        ...
