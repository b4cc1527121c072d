"""A ledger that a superuser has corrupted is found out, and where."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import localcontext  # noqa: TID251 (the caller's, who may do as they please)

import pytest
from sqlalchemy import Connection, text

from cogni_billing import (
    SYSTEM_ACCOUNT_ID,
    SYSTEM_TENANT_ID,
    Billing,
    FailureCode,
    PaymentAttempts,
    PaymentFailed,
    PaymentPending,
    PrivilegeRequired,
    Rule,
    usd,
)
from cogni_billing.adapters.postgres import PostgresUnitOfWork
from cogni_billing.adapters.postgres.audit import verification
from cogni_billing.ports.scope import UnitOfWork
from cogni_billing.testing.base import ALICE, BOB, CountingIds, SteppingClock
from cogni_billing.testing.contracts.attempt_base import CARD
from cogni_billing.testing.contracts.verifying import live
from cogni_billing.testing.verifiers import FakeVerifier, paid
from stack.conftest import Database

POSTING = "UPDATE cogni_billing.postings SET {} WHERE transaction_id = {} AND sequence = {}"
PURCHASE = "(SELECT id FROM cogni_billing.transactions WHERE reference = 'stripe:pi_1')"
CHARGE = (
    "(SELECT id FROM cogni_billing.transactions"
    f" WHERE reference = 'run-1' AND kind = 'charge' AND tenant_id = '{ALICE}')"
)
TRANSACTION = f"UPDATE cogni_billing.transactions SET {{}} WHERE id = {PURCHASE}"
WALLET = f"UPDATE cogni_billing.wallets SET {{}} WHERE tenant_id = '{ALICE}'"
HOLD = "UPDATE cogni_billing.holds SET {} WHERE reference = '{}'"
GRANT = "UPDATE cogni_billing.grants SET {} WHERE source = 'promo:b'"
RETURN = "UPDATE cogni_billing.transactions SET {} WHERE reference = '{}'"
DISPUTED = "UPDATE cogni_billing.holds SET {} WHERE kind = 'dispute' AND state = 'open'"
RELEASED = "state = 'released'"
POLICY = "policy = replace(policy::text, '0.25', '0.26')::json"

CORRUPTIONS: dict[str, tuple[str, set[Rule]]] = {
    "a share is raised": (
        POSTING.format("amount = amount + 1", PURCHASE, 2),
        {Rule.TRANSACTIONS_SUM_TO_ZERO, Rule.POSTINGS_MATCH, Rule.CHECKPOINTS_MATCH},
    ),
    "a share is moved to what was issued": (
        "UPDATE cogni_billing.postings"
        " SET amount = amount + CASE sequence WHEN 2 THEN 5 ELSE -5 END"
        f" WHERE transaction_id = {PURCHASE} AND sequence > 1",
        {Rule.POSTINGS_MATCH, Rule.CHECKPOINTS_MATCH},
    ),
    "a share is given to another": (
        POSTING.format(f"tenant_id = '{BOB}', account_id = '{BOB}'", PURCHASE, 2),
        {Rule.POSTINGS_MATCH, Rule.CHECKPOINTS_MATCH},
    ),
    "a share is lost": (
        f"DELETE FROM cogni_billing.postings WHERE transaction_id = {PURCHASE} AND sequence = 2",
        {Rule.TRANSACTIONS_SUM_TO_ZERO, Rule.POSTINGS_MATCH, Rule.CHECKPOINTS_MATCH},
    ),
    "a share is declared smaller": (
        TRANSACTION.format("shares = '{5}'"),
        {Rule.POSTINGS_MATCH, Rule.SHARES_FOLLOW_THE_POLICY},
    ),
    "what was asked for is rewritten": (
        "UPDATE cogni_billing.transactions"
        f""" SET request = '{{"amount": "1 CREDIT"}}' WHERE id = {CHARGE}""",
        {Rule.TRANSACTIONS_DO_WHAT_WAS_ASKED},
    ),
    "a policy is no JSON to Python": (
        TRANSACTION.format("""policy = ('{"version": ' || repeat('9', 5000) || '}')::json"""),
        {Rule.SHARES_FOLLOW_THE_POLICY},
    ),
    "a policy is too deep": (
        TRANSACTION.format("policy = (repeat('[', 3000) || repeat(']', 3000))::json"),
        {Rule.SHARES_FOLLOW_THE_POLICY},
    ),
    "a policy is rewritten": (TRANSACTION.format(POLICY), {Rule.SHARES_FOLLOW_THE_POLICY}),
    "a policy is unreadable": (
        TRANSACTION.format("""policy = '{"version": "1"}'"""),
        {Rule.SHARES_FOLLOW_THE_POLICY},
    ),
    "a policy was not yet in force": (
        TRANSACTION.format("occurred_at = '1969-12-31'"),
        {Rule.SHARES_FOLLOW_THE_POLICY},
    ),
    "what was paid is rewritten": (
        TRANSACTION.format("""request = '{"amount": "9.99 USD"}'"""),
        {Rule.PURCHASES_CREDIT_WHAT_WAS_PAID, Rule.SHARES_FOLLOW_THE_POLICY},
    ),
    "what was paid is unreadable": (
        TRANSACTION.format("""request = '{"amount": "ten"}'"""),
        {Rule.PURCHASES_CREDIT_WHAT_WAS_PAID},
    ),
    "a transaction vanishes": (
        f"DELETE FROM cogni_billing.transactions WHERE id = {CHARGE}",
        {Rule.POSTINGS_MATCH},
    ),
    "postings vanish": (
        f"DELETE FROM cogni_billing.postings WHERE transaction_id = {CHARGE}",
        {Rule.POSTINGS_MATCH, Rule.WALLETS_MATCH, Rule.LINES_RUN_ON, Rule.GRANTS_ADD_UP}
        | {Rule.CHECKPOINTS_MATCH},
    ),
    "a charge is declared a capture": (
        f"UPDATE cogni_billing.transactions SET kind = 'capture' WHERE id = {CHARGE}",
        {Rule.POSTINGS_MATCH, Rule.CAPTURES_MATCH_THEIR_HOLD},
    ),
    "a posting's number is changed": (
        POSTING.format("sequence = 7", PURCHASE, 3),
        {Rule.POSTINGS_MATCH},
    ),
    "a claim vanishes": (
        "DELETE FROM cogni_billing.payments WHERE payment = 'stripe:pi_1'",
        {Rule.PURCHASES_CLAIM_THEIR_PAYMENT},
    ),
    "a claim is another tenant's": (
        f"UPDATE cogni_billing.payments SET tenant_id = '{BOB}' WHERE payment = 'stripe:pi_1'",
        {Rule.PURCHASES_CLAIM_THEIR_PAYMENT, Rule.PAYMENTS_HAVE_THEIR_PURCHASE},
    ),
    "a claim is nobody's": (
        f"INSERT INTO cogni_billing.payments VALUES ('stripe:x', '{BOB}', 'purchase')",
        {Rule.PAYMENTS_HAVE_THEIR_PURCHASE},
    ),
    "a wallet is raised": (WALLET.format("posted = posted + 1"), {Rule.WALLETS_MATCH}),
    "a wallet is lost": (
        f"DELETE FROM cogni_billing.wallets WHERE tenant_id = '{ALICE}'",
        {Rule.WALLETS_MATCH, Rule.HOLDS_ARE_COUNTED, Rule.GRANTS_ARE_COUNTED},
    ),
    "a wallet's time is turned back": (WALLET.format("as_of = 'epoch'"), {Rule.WALLETS_MATCH}),
    "a wallet's account is gone": (
        f"DELETE FROM cogni_billing.accounts WHERE tenant_id = '{ALICE}'",
        {Rule.WALLETS_HAVE_ACCOUNTS},
    ),
    "a wallet forgets a hold's end": (
        WALLET.format("due_at = 'infinity'"),
        {Rule.WALLETS_KNOW_WHAT_IS_DUE},
    ),
    "a wallet holds more": (WALLET.format("held = held + 1"), {Rule.HOLDS_ARE_COUNTED}),
    "a wallet counts more of its grants": (
        WALLET.format("granted = granted + 1"),
        {Rule.GRANTS_ARE_COUNTED},
    ),
    "a running balance is rewritten": (
        POSTING.format("posted_after = 5", PURCHASE, 1),
        {Rule.LINES_RUN_ON, Rule.LINES_KNOW_THEIR_OWNER},
    ),
    "what a tenant was told is rewritten": (
        POSTING.format("balance_after = 5", PURCHASE, 1),
        {Rule.LINES_KNOW_THEIR_OWNER},
    ),
    "a line is turned into an arrival": (
        POSTING.format("posted_after = NULL, balance_after = NULL", PURCHASE, 1),
        {Rule.LINES_KNOW_THEIR_OWNER, Rule.LINES_RUN_ON, Rule.WALLETS_MATCH},
    ),
    "a line is dated back": (
        POSTING.format("occurred_at = 'epoch'", CHARGE, 1),
        {Rule.LINES_RUN_ON},
    ),
    "a hold is opened again": (
        HOLD.format("state = 'open', captured = 0", "run-2"),
        {Rule.HOLDS_ARE_COUNTED, Rule.CAPTURES_MATCH_THEIR_HOLD, Rule.GRANTS_ADD_UP}
        | {Rule.WALLETS_KNOW_WHAT_IS_DUE},
    ),
    "a hold is of more": (
        HOLD.format("amount = amount + 1", "run-4"),
        {Rule.HOLDS_ARE_COUNTED},
    ),
    "a hold vanishes": (
        "DELETE FROM cogni_billing.holds WHERE reference = 'run-2'",
        {Rule.CAPTURES_MATCH_THEIR_HOLD},
    ),
    "a capture is said to be of more": (
        HOLD.format("captured = captured + 1", "run-2"),
        {Rule.CAPTURES_MATCH_THEIR_HOLD},
    ),
    "a grant is given back": (
        GRANT.format("taken = 0"),
        {Rule.GRANTS_ADD_UP, Rule.GRANTS_ARE_COUNTED},
    ),
    "a grant is of more": (
        GRANT.format("amount = amount + 1"),
        {Rule.GRANTS_MATCH_THEIR_TRANSACTION, Rule.GRANTS_ARE_COUNTED},
    ),
    "a grant vanishes": (
        "DELETE FROM cogni_billing.grants WHERE source = 'promo:b'",
        {Rule.GRANTS_MATCH_THEIR_TRANSACTION, Rule.GRANTS_ADD_UP},
    ),
    "a grant should have lasted": (
        "UPDATE cogni_billing.grants SET expires_at = '9000-01-01' WHERE source = 'promo:a'",
        {Rule.GRANTS_LAPSE_ON_TIME},
    ),
    "a refund is of more": (
        RETURN.format("returned = returned + 1", "re_1"),
        {
            Rule.RETURNS_FOLLOW_ONE_ANOTHER,
            Rule.RETURNS_TAKE_BACK_THEIR_PART,
            Rule.TRANSACTIONS_DO_WHAT_WAS_ASKED,
        },
    ),
    "a refund absorbs more": (
        RETURN.format("absorbed = absorbed + 1", "re_2"),
        {Rule.POSTINGS_MATCH, Rule.RETURNS_TAKE_BACK_THEIR_PART},
    ),
    "a refund is of no purchase": (
        RETURN.format(f"reverses = '{BOB}'", "re_2"),
        {Rule.RETURNS_FOLLOW_ONE_ANOTHER},
    ),
    "a refund vanishes": (
        "DELETE FROM cogni_billing.transactions WHERE reference = 're_1'",
        {Rule.RETURNS_FOLLOW_ONE_ANOTHER, Rule.POSTINGS_MATCH},
    ),
    "what was paid is less than was returned": (
        """
        UPDATE cogni_billing.transactions SET request = '{"amount": "0.50 USD"}'
        WHERE reference = 'stripe:pi_5'
        """,
        {
            Rule.DISPUTES_ARE_OF_THEIR_PAYMENT,
            Rule.RETURNS_FOLLOW_ONE_ANOTHER,
            Rule.RETURNS_TAKE_BACK_THEIR_PART,
            Rule.PURCHASES_CREDIT_WHAT_WAS_PAID,
            Rule.SHARES_FOLLOW_THE_POLICY,
        },
    ),
    "what was paid of a returned payment is unreadable": (
        """
        UPDATE cogni_billing.transactions SET request = '{"amount": "a lot"}'
        WHERE reference = 'stripe:pi_5'
        """,
        {
            Rule.DISPUTES_ARE_OF_THEIR_PAYMENT,
            Rule.RETURNS_FOLLOW_ONE_ANOTHER,
            Rule.RETURNS_TAKE_BACK_THEIR_PART,
            Rule.PURCHASES_CREDIT_WHAT_WAS_PAID,
        },
    ),
    "a dispute vanishes": (
        "DELETE FROM cogni_billing.disputes WHERE reference = 'dp_2'",
        {Rule.DISPUTES_ARE_SET_ASIDE},
    ),
    "less is set aside than is disputed": (
        f"{DISPUTED.format('amount = amount - 1')} AND tenant_id = '{BOB}'",
        {Rule.DISPUTES_ARE_SET_ASIDE, Rule.HOLDS_ARE_COUNTED},
    ),
    "a part of a dispute is given back": (
        f"{DISPUTED.format(RELEASED)} AND tenant_id = '{SYSTEM_TENANT_ID}'",
        {Rule.DISPUTES_ARE_SET_ASIDE, Rule.HOLDS_ARE_COUNTED},
    ),
    "an open dispute is of more than it sets aside": (
        "UPDATE cogni_billing.disputes SET disputed = disputed + 0.05 WHERE reference = 'dp_2'",
        {Rule.DISPUTES_ARE_OF_THEIR_PAYMENT},
    ),
    "a dispute is of another payment": (
        "UPDATE cogni_billing.disputes SET payment = 'stripe:pi_1' WHERE reference = 'dp_2'",
        {Rule.DISPUTES_ARE_OF_THEIR_PAYMENT},
    ),
    "a dispute's request is forgotten": (
        "UPDATE cogni_billing.disputes SET request = '{}' WHERE reference = 'dp_2'",
        {Rule.DISPUTES_ARE_OF_THEIR_PAYMENT},
    ),
    "a refund's request is forgotten": (
        RETURN.format("request = '{}'", "re_1"),
        {Rule.TRANSACTIONS_DO_WHAT_WAS_ASKED},
    ),
    "a refund's request was of another amount": (
        RETURN.format("""request = '{"payment": "stripe:pi_5", "amount": "0.01 USD"}'""", "re_1"),
        {Rule.TRANSACTIONS_DO_WHAT_WAS_ASKED},
    ),
    "a chargeback is of no dispute": (
        f"UPDATE cogni_billing.transactions SET subject_id = '{BOB}' WHERE kind = 'chargeback'",
        {Rule.CHARGEBACKS_END_A_DISPUTE, Rule.POSTINGS_MATCH},
    ),
    "a lost dispute was of more": (
        "UPDATE cogni_billing.disputes SET disputed = disputed + 1 WHERE reference = 'dp_1'",
        {Rule.CHARGEBACKS_END_A_DISPUTE, Rule.DISPUTES_ARE_OF_THEIR_PAYMENT},
    ),
    "an attempt was credited by another purchase": (
        f"UPDATE cogni_billing.payment_attempts SET transaction_id = {PURCHASE}"
        " WHERE state = 'CREDITED'",
        {Rule.ATTEMPTS_HAVE_THEIR_PURCHASE, Rule.ATTEMPTS_FOLLOW_THEIR_EVENTS},
    ),
    "an attempt was of another amount": (
        "UPDATE cogni_billing.payment_attempts SET amount = amount + 1",
        {Rule.ATTEMPTS_HAVE_THEIR_PURCHASE},
    ),
    "an attempt was credited by itself": (
        "UPDATE cogni_billing.payment_attempts SET state = 'CREDITED' WHERE state = 'REJECTED'",
        {Rule.ATTEMPTS_HAVE_THEIR_PURCHASE, Rule.ATTEMPTS_FOLLOW_THEIR_EVENTS},
    ),
    "an attempt's rejection is forgotten": (
        "DELETE FROM cogni_billing.payment_attempt_events WHERE state = 'REJECTED'",
        {Rule.ATTEMPTS_FOLLOW_THEIR_EVENTS},
    ),
    "an attempt is pending by itself": (
        "UPDATE cogni_billing.payment_attempts SET state = 'PENDING_UNVERIFIED'"
        " WHERE state = 'CREATED_INTENT'",
        {Rule.ATTEMPTS_FOLLOW_THEIR_EVENTS},
    ),
    "an attempt had other evidence": (
        "UPDATE cogni_billing.payment_attempts SET evidence = '8453:0x1' WHERE state = 'REJECTED'",
        {Rule.ATTEMPTS_FOLLOW_THEIR_EVENTS},
    ),
    "an attempt failed for another reason": (
        "UPDATE cogni_billing.payment_attempts SET failure = 'TX_REVERTED'"
        " WHERE state = 'REJECTED'",
        {Rule.ATTEMPTS_FOLLOW_THEIR_EVENTS},
    ),
    "a checkpoint is rewritten": (
        f"UPDATE cogni_billing.checkpoints SET balance = balance + 1"
        f" WHERE tenant_id = '{SYSTEM_TENANT_ID}'",
        {Rule.CHECKPOINTS_MATCH},
    ),
    "a checkpoint's moments are rewritten": (
        "UPDATE cogni_billing.checkpoints SET latest_at = 'epoch'",
        {Rule.CHECKPOINTS_MATCH},
    ),
}


@pytest.fixture
def billing(database: Database) -> Billing:
    clock, ids = SteppingClock(), CountingIds()
    unit_of_work = PostgresUnitOfWork(database.user, service=database.service)
    billing = Billing(unit_of_work, clock=clock, ids=ids)
    live(billing, clock)
    attempted(unit_of_work, ids)
    return billing


def attempted(unit_of_work: UnitOfWork, ids: CountingIds) -> None:
    """An attempt in each state that takes evidence to come to, and an intent."""
    verifier = FakeVerifier()
    attempts = PaymentAttempts(unit_of_work, verifier=verifier, destinations=CARD, ids=ids)
    for evidence, answer in (
        ("stripe:a_1", paid),
        ("stripe:a_2", PaymentFailed(FailureCode.TOKEN_TRANSFER_NOT_FOUND)),
        ("stripe:a_3", PaymentPending()),
    ):
        verifier.tell(evidence, answer)
        intent = attempts.create_intent(ALICE, usd("2.00"))
        attempts.submit(ALICE, intent.attempt_id, evidence)
    attempts.create_intent(BOB, usd("2.00"))


@contextmanager
def corrupted(database: Database, statement: str) -> Iterator[Connection]:
    """A superuser's connection on which *statement* was run and no rule stopped it."""
    with database.admin.connect() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        rules = connection.execute(
            text(
                "SELECT conrelid::regclass, conname FROM pg_constraint"
                " WHERE connamespace = 'cogni_billing'::regnamespace AND contype = 'c'"
            )
        )
        for table, rule in rules.all():
            connection.execute(text(f"ALTER TABLE {table} DROP CONSTRAINT {rule}"))
        assert connection.execute(text(statement)).rowcount > 0
        yield connection
        connection.rollback()


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corruption_is_found_and_named(
    database: Database, billing: Billing, corruption: str
) -> None:
    statement, broken = CORRUPTIONS[corruption]
    with corrupted(database, statement) as connection:
        found = verification(connection, 1000).violations

    assert {violation.rule for violation in found} == broken
    assert all(violation.where and violation.detail for violation in found)
    assert billing.verify().ok


def test_every_rule_is_broken_by_some_corruption() -> None:
    assert set(Rule) == set[Rule]().union(*(rules for _, rules in CORRUPTIONS.values()))


def test_a_violation_says_where_it_is(database: Database, billing: Billing) -> None:
    statement, _ = CORRUPTIONS["a wallet is raised"]
    with corrupted(database, statement) as connection:
        (violation,) = verification(connection, 1000).violations

    assert violation.where == {"tenant": str(ALICE), "account": str(ALICE)}
    assert str(violation).startswith(f"I2 wallets_match: tenant {ALICE}, account {ALICE}: ")


def test_terms_that_are_alike_are_judged_once(database: Database, billing: Billing) -> None:
    for number in range(3):
        billing.confirm_purchase(BOB, usd("0.07"), payment=f"stripe:{number}")
    with corrupted(
        database, f"UPDATE cogni_billing.transactions SET {POLICY} WHERE amount = 700000"
    ) as connection:
        (violation,) = verification(connection, 1000).violations

    assert violation.detail.endswith("(and of 2 like it)")


def test_terms_that_are_like_no_other_are_told_alone(database: Database, billing: Billing) -> None:
    statement, _ = CORRUPTIONS["a policy is rewritten"]
    with corrupted(database, statement) as connection:
        (violation,) = verification(connection, 1000).violations

    assert violation.detail.endswith(f"for {SYSTEM_ACCOUNT_ID}")


def test_what_is_found_does_not_depend_on_the_callers_decimal_context(billing: Billing) -> None:
    with localcontext() as context:
        context.prec = 2
        assert billing.verify().violations == ()


def test_verifying_needs_the_service_role(database: Database) -> None:
    with pytest.raises(PrivilegeRequired):
        Billing(PostgresUnitOfWork(database.user)).verify()


def test_no_more_violations_are_reported_than_asked_for(
    database: Database, billing: Billing
) -> None:
    with corrupted(database, "UPDATE cogni_billing.wallets SET posted = posted + 1") as connection:
        few, all_of_them = (verification(connection, most).violations for most in (2, 1000))

    assert (len(few), len(all_of_them)) == (2, 3)
