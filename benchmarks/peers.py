"""The same purchases, each with a share for one platform, by libraries from PyPI.

Each library is used as an expert would use it: in one transaction if it allows that, with accounts
known by id. A unique reference credits a payment once. A second call is an error or a replay.
Unless noted, no peer checks which tenant may see an account. They have no policies or receipts.

Each package is imported inside the functions that use it, because Django and python-accounting set
up state for the whole process. So each peer has its own processes.
"""
# ruff: noqa: PLC0415

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from multiprocessing import get_context
from typing import Any, Final
from uuid import UUID

from attrs import frozen
from sqlalchemy import URL, Connection, Engine, create_engine, text

from benchmarks import jobs
from benchmarks.harness import Call, Database, Threads

OWNERS: Final = (*jobs.customers(), jobs.PLATFORM)
KINDS: Final = ("TABLES", "SEQUENCES", "FUNCTIONS")


def install(database: Database) -> None:
    """Create the tables of all peers, and accounts for the customers and the platform."""
    installers = (_credit_ledger, _nostro, _hordak, _python_accounting)
    with ProcessPoolExecutor(1, get_context("forkserver"), max_tasks_per_child=1) as pool:
        for done in [pool.submit(installer, database) for installer in installers]:
            done.result()


def _within(schema: str, url: URL) -> URL:
    """A URL with a schema of its own, for a library that does not name one."""
    return url.update_query_dict({"options": f"-csearch_path={schema}"})


def _conninfo(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def _create(schema: str, connection: Connection) -> None:
    connection.execute(text(f"CREATE SCHEMA {schema}"))


def _grant(schema: str, connection: Connection) -> None:
    """Grant the application's role all rights, more than it needs."""
    for on in (f"SCHEMA {schema}", *(f"ALL {kind} IN SCHEMA {schema}" for kind in KINDS)):
        connection.execute(text(f"GRANT ALL ON {on} TO app_user"))


@contextmanager
def _as_superuser(database: Database, schema: str | None = None) -> Iterator[Connection]:
    url = database.url("postgres")
    engine = create_engine(_within(schema, url) if schema else url)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


@contextmanager
def _as_application(database: Database, clients: int, schema: str) -> Iterator[Engine]:
    url = _within(schema, database.url("app_user"))
    engine = create_engine(url, pool_size=clients, max_overflow=0)
    yield engine
    engine.dispose()


# --- credit-ledger -----------------------------------------------------------------------------

CREDIT_LEDGER_TABLES: Final = """
    CREATE TABLE credit_balance (
        tenant_id uuid PRIMARY KEY,
        credits numeric(18, 4) NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE TABLE credit_ledger (
        id uuid PRIMARY KEY,
        tenant_id uuid NOT NULL REFERENCES credit_balance,
        delta numeric(18, 4) NOT NULL,
        reason text NOT NULL,
        idempotency_key text,
        balance_after numeric(18, 4) NOT NULL,
        UNIQUE (tenant_id, idempotency_key)
    );
"""
"""The package has no tables of its own. These have the columns that its statements name."""
CREDIT_LEDGER_POLICY: Final = """
    ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON {table} USING (tenant_id = current_setting('app.current_tenant')::uuid);
"""


def _credit_ledger(database: Database) -> None:
    with _as_superuser(database, "credit_ledger") as connection:
        _create("credit_ledger", connection)
        connection.execute(text(CREDIT_LEDGER_TABLES))
        for table in ("credit_balance", "credit_ledger"):
            connection.execute(text(CREDIT_LEDGER_POLICY.format(table=table)))
        connection.execute(
            text("INSERT INTO credit_balance (tenant_id, credits) VALUES (:owner, 0)"),
            [{"owner": owner} for owner in OWNERS],
        )
        _grant("credit_ledger", connection)


def _purchase_by_credit_ledger(engine: Engine) -> None:
    from credit_ledger import grant

    reference = jobs.reference()
    for owner, amount in ((jobs.customer(), jobs.CREDITS), (jobs.PLATFORM, jobs.SHARE)):
        grant(str(owner), amount, reason="purchase", idempotency_key=reference, engine=engine)


@contextmanager
def _on_credit_ledger(database: Database, clients: int) -> Iterator[Sequence[Call]]:
    with _as_application(database, clients, "credit_ledger") as engine:
        yield [partial(_purchase_by_credit_ledger, engine)] * clients


CREDIT_LEDGER: Final = Threads("credit-ledger, two transactions", _on_credit_ledger)
"""Two grants, in a transaction each. A crash in between loses the share until a retry.

It stores balances, and row security separates tenants. It has single entries.
"""


# --- hf-nostro ---------------------------------------------------------------------------------

SCALE: Final = 0


def _nostro(database: Database) -> None:
    from nostro import Ledger
    from nostro.migrate import migrate

    conninfo = _conninfo(database.url("postgres"))
    migrate(dsn=conninfo, scale=SCALE)
    ledger = Ledger(dsn=conninfo, scale=SCALE)
    for owner in OWNERS:
        ledger.accounts.create("benchmark", str(owner))
    ledger.close()
    with _as_superuser(database) as connection:
        _grant("nostro", connection)


def _purchase_by_nostro(ledger: Any, pool: Any, accounts: Mapping[UUID, UUID]) -> None:
    reference = jobs.reference()
    with pool.connection() as connection, connection.cursor() as cursor:
        for owner, amount in ((jobs.customer(), jobs.CREDITS), (jobs.PLATFORM, jobs.SHARE)):
            ledger.credit(
                accounts[owner],
                ledger.amount(amount),
                category="purchase",
                idempotency_key=reference,
                cur=cursor,
            )


@contextmanager
def _on_nostro(database: Database, clients: int) -> Iterator[Sequence[Call]]:
    from nostro import Ledger
    from psycopg_pool import ConnectionPool

    with ConnectionPool(_conninfo(database.url("app_user")), min_size=clients) as pool:
        ledger = Ledger(pool=pool, scale=SCALE)
        with pool.connection() as connection:
            found = connection.execute("SELECT scope_ref, id FROM nostro.account")
            accounts = {UUID(owner): account for owner, account in found}
        yield [partial(_purchase_by_nostro, ledger, pool, accounts)] * clients


NOSTRO: Final = Threads("hf-nostro, one transaction", _on_nostro)
"""Two calls of its functions in the server, with the platform's last.

Triggers keep and check balances, and each credit is a lot that may expire. It has single entries,
and no row security.
"""


# --- django-hordak -----------------------------------------------------------------------------

CURRENCY: Final = "EUR"
"""Hordak's credits are money, which has a currency and two decimals."""


def _set_up_django(database: Database, role: str) -> None:
    import django
    from django.conf import settings

    url = database.url(role)
    settings.configure(
        INSTALLED_APPS=["django.contrib.contenttypes", "mptt", "hordak"],
        USE_TZ=True,
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": url.database,
                "USER": url.username,
                "PASSWORD": url.password,
                "HOST": url.query["host"],
                "PORT": url.query["port"],
                "OPTIONS": {"options": "-csearch_path=hordak"},
            }
        },
    )
    django.setup()


def _hordak(database: Database) -> None:
    with _as_superuser(database) as connection:
        _create("hordak", connection)
    _set_up_django(database, "postgres")
    from django.core.management import call_command
    from django.db import transaction
    from hordak.models import Account, AccountType

    call_command("migrate", verbosity=0)
    with transaction.atomic(), Account.objects.delay_mptt_updates():
        Account.objects.create(name="payments", type=AccountType.asset)
        for owner in OWNERS:
            Account.objects.create(name=str(owner), type=AccountType.liability)
    with _as_superuser(database, "hordak") as connection:
        connection.execute(
            text(
                "CREATE TABLE payments (reference text PRIMARY KEY,"
                " transaction_id bigint NOT NULL REFERENCES hordak_transaction)"
            )
        )
        _grant("hordak", connection)


def _purchase_by_hordak(accounts: Mapping[str, int]) -> None:
    from django.db import connection, transaction
    from hordak.models import Leg, Transaction
    from moneyed import Money

    def money(amount: object) -> Any:
        return Money(amount, CURRENCY)

    paid, customer, platform = accounts["payments"], str(jobs.customer()), str(jobs.PLATFORM)
    with transaction.atomic():
        made = Transaction.objects.create(description="purchase")
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO payments VALUES (%s, %s)", (jobs.reference(), made.id))
        Leg.objects.bulk_create(
            (
                Leg(transaction=made, account_id=paid, debit=money(jobs.CREDITS + jobs.SHARE)),
                Leg(transaction=made, account_id=accounts[customer], credit=money(jobs.CREDITS)),
                Leg(transaction=made, account_id=accounts[platform], credit=money(jobs.SHARE)),
            )
        )


@contextmanager
def _on_hordak(database: Database, clients: int) -> Iterator[Sequence[Call]]:
    """Django opens a connection for each thread."""
    _set_up_django(database, "app_user")
    from hordak.models import Account

    accounts = dict(Account.objects.values_list("name", "id"))
    yield [partial(_purchase_by_hordak, accounts)] * clients


HORDAK: Final = Threads("django-hordak, one transaction", _on_hordak)
"""A transaction of three legs, which triggers check to balance, and a table of references.

It has no row security. It stores no balances: they are sums of legs, and are not read here.
"""


# --- python-accounting -------------------------------------------------------------------------


@frozen
class Books:
    """The ids of an entity, and of its accounts by their owners."""

    entity: int
    payments: int
    accounts: Mapping[str, int]


def _python_accounting(database: Database) -> None:
    from python_accounting.database.session import get_session
    from python_accounting.models import Account, Base, Currency, Entity

    kinds = Account.AccountType
    with _as_superuser(database, "python_accounting") as connection:
        _create("python_accounting", connection)
        Base.metadata.create_all(connection)
        with get_session(connection) as session:
            session.add(entity := Entity(name="benchmark"))
            session.flush()
            session.add(currency := Currency(name="credits", code="CRD", entity_id=entity.id))
            session.flush()
            of_entity = {"entity_id": entity.id, "currency_id": currency.id}
            session.add(Account(name="payments", account_type=kinds.BANK, **of_entity))
            session.add_all(
                Account(
                    name="credits", description=str(owner), account_type=kinds.PAYABLE, **of_entity
                )
                for owner in OWNERS
            )
            session.commit()
        _grant("python_accounting", connection)


def _purchase_by_python_accounting(engine: Engine, books: Books) -> None:
    from python_accounting.database.session import get_session
    from python_accounting.models import Entity, LineItem
    from python_accounting.transactions import JournalEntry

    with engine.begin() as connection, get_session(connection) as session:
        session.entity = session.get(Entity, books.entity)
        entry = JournalEntry(
            narration="purchase",
            transaction_no=jobs.reference(),
            transaction_date=datetime.now(),  # noqa: DTZ005
            account_id=books.payments,
            credited=False,
            entity_id=books.entity,
        )
        items = [
            LineItem(
                narration="credits",
                account_id=books.accounts[str(owner)],
                amount=amount,
                credited=True,
                entity_id=books.entity,
            )
            for owner, amount in ((jobs.customer(), jobs.CREDITS), (jobs.PLATFORM, jobs.SHARE))
        ]
        session.add_all((entry, *items))
        session.flush()
        entry.line_items.update(items)
        entry.post(session)


@contextmanager
def _on_python_accounting(database: Database, clients: int) -> Iterator[Sequence[Call]]:
    with _as_application(database, clients, "python_accounting") as engine:
        with engine.connect() as connection:
            found = connection.execute(
                text("SELECT COALESCE(description, 'payments'), id, entity_id FROM account")
            ).all()
        accounts = {owner: account for owner, account, _ in found}
        books = Books(found[0].entity_id, accounts["payments"], accounts)
        yield [partial(_purchase_by_python_accounting, engine, books)] * clients


PYTHON_ACCOUNTING: Final = Threads("python-accounting, one transaction", _on_python_accounting)
"""A posted journal entry of two line items. Its unique number is the reference.

By default the library numbers entries by counting those of the year. That fails with two concurrent
clients. It commits as it posts, so its session runs in an outer transaction of its connection. It
chains hashes. It stores no balances, and this benchmark does not read them. It has no row security.
A filter in Python separates entities.
"""


CONTENDERS: Final = (CREDIT_LEDGER, NOSTRO, HORDAK, PYTHON_ACCOUNTING)
