"""Connections that report each statement before they send it, below SQLAlchemy's events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event

BeforeEach: TypeAlias = Callable[[psycopg.Connection[Any], str], None]
"""Called with the connection and the statement, including COMMIT of a scope."""


@contextmanager
def watched_engine(url: URL | str, before_each: BeforeEach, **options: Any) -> Iterator[Engine]:
    """Create an engine that calls *before_each*, except for SQLAlchemy's first queries."""
    armed: list[bool] = []

    class Watched(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **more: Any) -> Any:
            if armed:
                before_each(self.connection, str(query))
            return super().execute(query, params, **more)

    def before_commit(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        before_each(driver, "COMMIT")

    given = options.pop("connect_args", {})
    engine = create_engine(url, connect_args=given | {"cursor_factory": Watched}, **options)
    with engine.connect():
        armed.append(True)
    event.listen(engine, "commit", before_commit)
    try:
        yield engine
    finally:
        engine.dispose()
