"""Contenders on a slow network: each message to the server arrives a millisecond later."""

from __future__ import annotations

import multiprocessing
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from attrs import evolve, frozen

from benchmarks.harness import Contender, Database, Work

DELAY_S: Final = 0.001
_CONTEXT: Final = multiprocessing.get_context("forkserver")


@frozen
class Delayed(Contender):
    """Connects to the server through a proxy that delays its messages."""

    contender: Contender

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.contender.name

    def work(self, database: Database, clients: int, seconds: float) -> Work:
        with delayed(database) as far:
            return self.contender.work(far, clients, seconds)


@contextmanager
def delayed(database: Database) -> Iterator[Database]:
    """The same database behind a proxy. The superuser's connections measure, and go direct."""
    url = database.url("app_user")
    port = url.query["port"]
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/.s.PGSQL.{port}")
        listener.listen(128)
        server = f"{url.query['host']}/.s.PGSQL.{port}"
        proxy = _CONTEXT.Process(target=_forward_all, args=(listener, server), daemon=True)
        proxy.start()
        slow = {
            role: url.update_query_dict({"host": folder})
            for role, url in database.urls.items()
            if role != "postgres"
        }
        yield evolve(database, urls={**database.urls, **slow})
        proxy.kill()
        proxy.join()


def _forward_all(listener: socket.socket, server: str) -> None:
    while True:
        client, _ = listener.accept()
        upstream = socket.socket(socket.AF_UNIX)
        upstream.connect(server)
        for ends in ((client, upstream, DELAY_S), (upstream, client, 0.0)):
            threading.Thread(target=_forward, args=ends, daemon=True).start()


def _forward(source: socket.socket, target: socket.socket, delay_s: float) -> None:
    with suppress(OSError):  # either side may end first
        while data := source.recv(65536):
            time.sleep(delay_s)
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)
