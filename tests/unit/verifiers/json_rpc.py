"""A fake JSON-RPC node of a chain, on a local port."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Final

from attrs import Factory, define

TRANSFER: Final = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
"""keccak256("Transfer(address,address,uint256)"), the first topic of the event."""
BLOCK: Final = 0x1B4
Answer = Callable[[], tuple[int, bytes]]


def block_hash(number: int) -> str:
    return f"0x{number:064x}"


def topic(address: str) -> str:
    """An address as an indexed argument."""
    return "0x" + address[2:].rjust(64, "0")


def transfer(token: str, sender: str, recipient: str, value: int) -> dict[str, Any]:
    """A Transfer log of ERC-20, as a receipt has it."""
    return {
        "address": token,
        "topics": [TRANSFER, topic(sender), topic(recipient)],
        "data": f"0x{value:064x}",
        "blockNumber": hex(BLOCK),
        "blockHash": block_hash(BLOCK),
        "transactionHash": "0x" + "ab" * 32,
        "transactionIndex": "0x1",
        "logIndex": "0x0",
        "removed": False,
    }


def receipt(*logs: dict[str, Any], status: int = 1) -> dict[str, Any]:
    """The result of eth_getTransactionReceipt."""
    return {
        "transactionHash": "0x" + "ab" * 32,
        "transactionIndex": "0x1",
        "blockHash": block_hash(BLOCK),
        "blockNumber": hex(BLOCK),
        "from": "0x" + "a1" * 20,
        "to": "0x" + "c0" * 20,
        "cumulativeGasUsed": "0x33bc",
        "effectiveGasPrice": "0x4a817c800",
        "gasUsed": "0x4dc",
        "contractAddress": None,
        "logs": list(logs),
        "logsBloom": "0x" + "00" * 256,
        "type": "0x2",
        "status": hex(status),
    }


def block(number: int, extra: str = "0x") -> dict[str, Any]:
    """The result of eth_getBlockByNumber. *extra* is long on proof-of-authority chains."""
    return {
        "number": hex(number),
        "hash": block_hash(number),
        "parentHash": block_hash(number - 1),
        "nonce": "0x0000000000000000",
        "sha3Uncles": "0x" + "11" * 32,
        "logsBloom": "0x" + "00" * 256,
        "transactionsRoot": "0x" + "22" * 32,
        "stateRoot": "0x" + "33" * 32,
        "receiptsRoot": "0x" + "44" * 32,
        "miner": "0x" + "55" * 20,
        "difficulty": "0x0",
        "totalDifficulty": "0x0",
        "extraData": extra,
        "size": "0x220",
        "gasLimit": "0x1c9c380",
        "gasUsed": "0x5208",
        "timestamp": "0x65f0c0de",
        "transactions": [],
        "uncles": [],
    }


@define
class Node:
    """Answers each method with a result, or all methods with a custom answer.

    The latest safe block and the latest finalized block have results of their own.
    """

    results: dict[str, Any] = Factory(dict)
    instead: Answer | None = None
    asked: list[str] = Factory(list)
    url: str = ""

    def answer(self, request: dict[str, Any]) -> tuple[int, bytes]:
        tag = str((request.get("params") or [""])[0])
        method = tag if tag in {"safe", "finalized"} else request["method"]
        self.asked.append(method)
        if self.instead is not None:
            return self.instead()
        result = self.results[method]
        told = result if "error" in (result or {}) else {"result": result}
        return 200, json.dumps({"jsonrpc": "2.0", "id": request["id"], **told}).encode()


@contextmanager
def serving(node: Node) -> Iterator[Node]:
    """Serve *node* at `node.url` until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, content = node.answer(json.loads(body))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Print no requests."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Print no errors: a client that times out closes the connection."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        node.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield node
        finally:
            server.shutdown()
            thread.join()
