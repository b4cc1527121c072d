"""Write the definitions of the migrated schema, with which `doctor` compares databases.

python tools/write_definitions.py
"""

from __future__ import annotations

from importlib.resources import as_file

from attrs import astuple
from sqlalchemy import create_engine, text

from cogni_billing.adapters.postgres.embedded import EmbeddedPostgres
from cogni_billing.adapters.postgres.operations.definitions import LIST, found


def main() -> None:
    with EmbeddedPostgres() as server, as_file(LIST) as path:
        engine = create_engine(server.administrator)
        with engine.connect() as connection:
            connection.execute(text("SET search_path = pg_catalog"))
            lines = sorted(" ".join(astuple(each)) for each in found(connection))
        engine.dispose()
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


if __name__ == "__main__":
    main()
