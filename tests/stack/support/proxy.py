"""A proxy before the server's socket that can cut the connection around a commit."""

from __future__ import annotations

import math
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from pathlib import Path

from attrs import define, field
from sqlalchemy import URL

PATIENCE_S = 5.0
# The Execute message of the unnamed portal. libpq sends it for each statement with parameters.
EXECUTE = b"E\0\0\0\x09\0\0\0\0\0"


class Cut(Enum):
    """The time of the cut."""

    NEVER = auto()
    BEFORE_COMMIT = auto()
    """COMMIT, or a statement that commits by itself, does not reach the server."""
    AFTER_COMMIT = auto()
    """The server answers, and the answer does not reach the client."""


@define
class Proxy:
    """Forwards in both directions between its own socket and the server's."""

    directory: Path
    server: str
    """The socket of the server that new connections lead to."""
    cut: Cut = Cut.NEVER
    times: float = math.inf
    """The number of connections to cut. Later ones stay open."""
    _threads: list[threading.Thread] = field(factory=list)
    _sockets: list[socket.socket] = field(factory=list)
    _lock: threading.Lock = field(factory=threading.Lock)

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # the listener was closed: the test has ended
                return
            upstream = socket.socket(socket.AF_UNIX)
            upstream.connect(self.server)
            self._sockets += (client, upstream)
            for source, target, from_client in (
                (client, upstream, True),
                (upstream, client, False),
            ):
                thread = threading.Thread(
                    target=self._forward, args=(source, target, from_client), daemon=True
                )
                thread.start()
                self._threads.append(thread)

    def drop(self) -> None:
        """Cut every open connection, as a proxy does with idle ones."""
        for end in self._sockets:
            _shut(end)

    def hang_up(self) -> None:
        # Forwarded statements are answered first, so that they have run when the test continues.
        for thread in self._threads:
            thread.join(PATIENCE_S)
        for end in self._sockets:
            _shut(end)
        for thread in self._threads:
            thread.join()
        for end in self._sockets:
            end.close()

    def _forward(self, source: socket.socket, target: socket.socket, from_client: bool) -> None:
        in_transaction = False
        while data := _received(source):
            commits = from_client and (
                b"COMMIT\0" in data or (EXECUTE in data and not in_transaction)
            )
            in_transaction = b"BEGIN" in data or (in_transaction and not _ends(data))
            cut = self._take() if commits else Cut.NEVER
            if cut is Cut.BEFORE_COMMIT:
                break
            if cut is Cut.AFTER_COMMIT:
                _shut(source)  # first, so that no fast answer gets through
                target.sendall(data)
                return
            try:
                target.sendall(data)
            except OSError:
                break
        _shut(source)
        _shut(target)

    def _take(self) -> Cut:
        """Return the cut to make now."""
        with self._lock:
            if self.cut is Cut.NEVER or self.times < 1:
                return Cut.NEVER
            self.times -= 1
            return self.cut


def _ends(data: bytes) -> bool:
    return b"COMMIT\0" in data or b"ROLLBACK\0" in data


def _shut(end: socket.socket) -> None:
    with suppress(OSError):  # it may be closed already
        end.shutdown(socket.SHUT_RDWR)


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(65536)
    except OSError:
        return b""


def socket_of(url: URL) -> str:
    """Return the socket of the server that *url* leads to."""
    return f"{url.query['host']}/.s.PGSQL.{url.query.get('port', '5432')}"


@contextmanager
def proxied(url: URL) -> Iterator[tuple[Proxy, URL]]:
    """Start a proxy before the server of *url*. Returns it with the URL that leads through it."""
    port = url.query.get("port", "5432")
    with tempfile.TemporaryDirectory(prefix="cogni-proxy-") as name:
        directory = Path(name)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(directory / f".s.PGSQL.{port}"))
        listener.listen()
        proxy = Proxy(directory, socket_of(url))
        thread = threading.Thread(target=proxy.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield proxy, url.update_query_dict({"host": name})
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join()
            proxy.hang_up()
