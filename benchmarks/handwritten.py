"""The same job, written by hand on its own tables, as an experienced user would.

It finds the account, updates its balance and inserts an entry, once for the customer and once for
the platform. A unique reference makes each entry once. It has no row security, no check of balance,
no policies and no receipts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from functools import partial
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
from sqlalchemy import Engine, ForeignKey, UniqueConstraint, create_engine, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks import jobs
from benchmarks.harness import Call, Database, Threads

Connection = psycopg.Connection[tuple[Any, ...]]


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "handwritten_accounts"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    balance: Mapped[Decimal]


class Entry(Base):
    __tablename__ = "handwritten_entries"
    __table_args__ = (UniqueConstraint("account_id", "reference"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey(Account.id))
    reference: Mapped[str]
    amount: Mapped[Decimal]
    balance_after: Mapped[Decimal]


FIND: Final = "SELECT balance FROM handwritten_accounts WHERE id = %s FOR UPDATE"
MADE: Final = "SELECT FROM handwritten_entries WHERE account_id = %s AND reference = %s"
UPDATE: Final = "UPDATE handwritten_accounts SET balance = %s WHERE id = %s"
UPDATE_AND_TELL: Final = (
    "UPDATE handwritten_accounts SET balance = balance + %s WHERE id = %s RETURNING balance"
)
INSERT: Final = """
    INSERT INTO handwritten_entries (id, account_id, reference, amount, balance_after)
    VALUES (%s, %s, %s, %s, %s)
"""


def install(database: Database) -> None:
    """Create the tables, and an account for every customer and for the platform."""
    engine = create_engine(database.url("postgres"))
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        owners = [*jobs.customers(), jobs.PLATFORM]
        session.add_all(Account(id=owner, balance=Decimal(0)) for owner in owners)
        session.execute(text("GRANT ALL ON handwritten_accounts, handwritten_entries TO app_user"))
        session.commit()
    engine.dispose()


def credit(connection: Connection, account: UUID, reference: str, amount: Decimal) -> None:
    """Find, update, insert."""
    found = connection.execute(FIND, (account,)).fetchone()
    assert found is not None
    if connection.execute(MADE, (account, reference)).fetchone():
        return
    balance = found[0] + amount
    connection.execute(UPDATE, (balance, account))
    connection.execute(INSERT, (uuid4(), account, reference, amount, balance))


def in_two_transactions(connection: Connection) -> None:
    """First the customer's, then the platform's. A crash in between loses the share."""
    reference = jobs.reference()
    with connection.transaction():
        credit(connection, jobs.customer(), reference, jobs.CREDITS)
    with connection.transaction():
        credit(connection, jobs.PLATFORM, reference, jobs.SHARE)


def in_one_transaction(connection: Connection) -> None:
    """The fastest form: the unique reference replaces a query, and the platform comes last."""
    reference = jobs.reference()
    with connection.transaction():
        for account, amount in ((jobs.customer(), jobs.CREDITS), (jobs.PLATFORM, jobs.SHARE)):
            told = connection.execute(UPDATE_AND_TELL, (amount, account)).fetchone()
            assert told is not None
            connection.execute(INSERT, (uuid4(), account, reference, amount, told[0]))


def with_objects(engine: Engine) -> None:
    """Two transactions of an ORM session."""
    reference = jobs.reference()
    for owner, amount in ((jobs.customer(), jobs.CREDITS), (jobs.PLATFORM, jobs.SHARE)):
        with Session(engine) as session, session.begin():
            account = session.get_one(Account, owner, with_for_update=True)
            made = session.query(Entry).filter_by(account_id=owner, reference=reference)
            if made.first() is None:
                account.balance += amount
                session.add(
                    Entry(
                        id=uuid4(),
                        account_id=owner,
                        reference=reference,
                        amount=amount,
                        balance_after=account.balance,
                    )
                )


@contextmanager
def on_connections(
    job: Callable[[Connection], None], database: Database, clients: int
) -> Iterator[Sequence[Call]]:
    """*job* on a separate connection for each client."""
    conninfo = database.url("app_user").set(drivername="postgresql")
    with ExitStack() as stack:
        connections = [
            stack.enter_context(
                psycopg.connect(conninfo.render_as_string(hide_password=False), autocommit=True)
            )
            for _ in range(clients)
        ]
        yield [partial(job, connection) for connection in connections]


@contextmanager
def on_an_engine(database: Database, clients: int) -> Iterator[Sequence[Call]]:
    engine = create_engine(database.url("app_user"), pool_size=clients, max_overflow=0)
    yield [partial(with_objects, engine)] * clients
    engine.dispose()


ONE_TRANSACTION: Final = Threads(
    "psycopg, one transaction", partial(on_connections, in_one_transaction)
)
TWO_TRANSACTIONS: Final = Threads(
    "psycopg, two transactions", partial(on_connections, in_two_transactions)
)
OBJECTS: Final = Threads("SQLAlchemy's ORM, two transactions", on_an_engine)
