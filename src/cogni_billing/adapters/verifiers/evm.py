"""Verifies token payments on EVM chains, over JSON-RPC with web3.

Needs the extra `evm`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Final, TypeVar

import aiohttp
import requests
from attrs import define, field, frozen
from eth_abi.exceptions import DecodingError
from hexbytes import HexBytes

_LIMIT = sys.getrecursionlimit()
from web3 import AsyncHTTPProvider, AsyncWeb3, HTTPProvider, Web3  # noqa: E402
from web3.exceptions import TransactionNotFound, Web3Exception  # noqa: E402
from web3.middleware import ExtraDataToPOAMiddleware  # noqa: E402
from web3.types import LogReceipt, TxReceipt  # noqa: E402

# A library that web3 imports raises Python's recursion limit above the stack size. Deeply nested
# JSON would then crash the process instead of raising.
sys.setrecursionlimit(_LIMIT)

from cogni_billing.domain.attempt_limits import positive_span  # noqa: E402
from cogni_billing.domain.attempts import Intent  # noqa: E402
from cogni_billing.domain.errors import InvalidInput, shown  # noqa: E402
from cogni_billing.domain.findings import (  # noqa: E402
    FailureCode,
    Finding,
    PaymentFailed,
    PaymentPending,
    PaymentVerified,
)

WAITS: Final = timedelta(seconds=3)
"""The default timeout of a request. A payment takes three or four."""
_TRANSFER: Final = [
    {
        "type": "event",
        "name": "Transfer",
        "anonymous": False,
        "inputs": [
            {"name": "from", "type": "address", "indexed": True},
            {"name": "to", "type": "address", "indexed": True},
            {"name": "value", "type": "uint256", "indexed": False},
        ],
    }
]
"""The Transfer event of ERC-20 (https://eips.ethereum.org/EIPS/eip-20)."""
_EVENT: Final = Web3().eth.contract(abi=_TRANSFER).events.Transfer()


_EACH: Final = "a JSON-RPC URL, http:// or https://, for each chain id"


@frozen
class Transfer:
    """A token transfer in a transaction, with addresses in lower case."""

    token: str
    sender: str
    recipient: str
    value: int


def _urls(given: Mapping[int, str]) -> dict[int, str]:
    if not isinstance(given, Mapping) or not given:
        raise InvalidInput("urls", shown(given), _EACH)
    for chain, url in given.items():
        if type(chain) is not int or chain < 1:
            raise InvalidInput("urls", f"a URL for chain {shown(chain)}", _EACH)
        # Without a URL web3 would ask localhost. An invalid one is not shown: it may be a key.
        if not isinstance(url, str) or not url.startswith(("http://", "https://")):
            raise InvalidInput("urls", f"an invalid URL for chain {chain}", _EACH)
    return dict(given)


def _waits(given: timedelta) -> timedelta:
    return positive_span(given, "waits")


@define
class EvmVerifier:
    """Looks up ERC-20 transfers on EVM chains, in both sync and async code.

    A transaction may pay several parties. The verifier counts all that the intent's payer sent of
    the token to the recipient. One transaction is one payment, so only one intent can claim a
    transaction that several payers share.

    If a node sends no valid answer, such as an error, a rate limit or invalid JSON, the finding is
    `RPC_ERROR` and the attempt stays pending. `await aclose()` closes the connections of
    `verify_async`.

    Args:
        urls: A JSON-RPC URL for each chain id.
        waits: The timeout of each request. A payment takes three requests, and one more the first
            time.

    Raises:
        InvalidInput: *urls* is empty or invalid, or *waits* is no span of time.
    """

    _urls: dict[int, str] = field(converter=_urls, repr=False)  # a URL's path may hold a key
    waits: timedelta = field(default=WAITS, kw_only=True, converter=_waits)
    _called: dict[int, Web3] = field(factory=dict, init=False, repr=False)
    _awaited: dict[int, AsyncWeb3[AsyncHTTPProvider]] = field(factory=dict, init=False, repr=False)
    _right: set[int] = field(factory=set, init=False, repr=False)
    """Chains whose node has reported the right chain id."""

    def verify(self, evidence: str, intent: Intent, /) -> Finding:
        """The finding on the payment.

        Raises:
            InvalidInput: the intent's chain has no URL, or its URL is of another chain.
        """
        chain, transaction = _sought(evidence)
        eth = self._node(chain).eth
        try:
            if chain not in self._right:
                self._note(chain, int(eth.chain_id))
            head = eth.block_number
            receipt = eth.get_transaction_receipt(transaction)
            block = eth.get_block(receipt["blockNumber"])
            return _found(intent, transaction, receipt, head, bytes(block["hash"]))
        except _FAILURES as error:
            return _waiting(error)

    async def verify_async(self, evidence: str, intent: Intent, /) -> Finding:
        """The finding on the payment.

        Raises:
            InvalidInput: the intent's chain has no URL, or its URL is of another chain.
        """
        chain, transaction = _sought(evidence)
        eth = self._awaited_node(chain).eth
        try:
            if chain not in self._right:
                self._note(chain, int(await eth.chain_id))
            head = await eth.block_number
            receipt = await eth.get_transaction_receipt(transaction)
            block = await eth.get_block(receipt["blockNumber"])
            return _found(intent, transaction, receipt, head, bytes(block["hash"]))
        except _FAILURES as error:
            return _waiting(error)

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        for node in self._awaited.values():
            await node.provider.disconnect()

    def _node(self, chain: int) -> Web3:
        if chain not in self._called:
            options = {"timeout": self.waits.total_seconds()}
            provider = HTTPProvider(
                self._url(chain), request_kwargs=options, exception_retry_configuration=None
            )
            self._called[chain] = _any_chain(Web3(provider))
        return self._called[chain]

    def _awaited_node(self, chain: int) -> AsyncWeb3[AsyncHTTPProvider]:
        if chain not in self._awaited:
            options = {"timeout": aiohttp.ClientTimeout(self.waits.total_seconds())}
            provider = AsyncHTTPProvider(
                self._url(chain), request_kwargs=options, exception_retry_configuration=None
            )
            self._awaited[chain] = _any_chain(AsyncWeb3(provider))
        return self._awaited[chain]

    def _url(self, chain: int) -> str:
        if chain not in self._urls:
            known = " or ".join(map(str, self._urls))
            raise InvalidInput("chain_id", shown(chain), known)
        return self._urls[chain]

    def _note(self, chain: int, answered: int) -> None:
        if answered != chain:
            raise InvalidInput("urls", f"a node of chain {answered}", f"a node of chain {chain}")
        self._right.add(chain)


Node = TypeVar("Node", Web3, AsyncWeb3[AsyncHTTPProvider])


def _any_chain(node: Node) -> Node:
    # Blocks of proof-of-authority chains have more extra data than web3 accepts by default.
    node.middleware_onion.inject(ExtraDataToPOAMiddleware, layer=0)
    return node


def _sought(evidence: str) -> tuple[int, HexBytes]:
    chain, _, transaction = evidence.partition(":")
    return int(chain), HexBytes(transaction)


# Errors of the second line come from malformed answers.
_FAILURES: Final = (
    *(Web3Exception, requests.RequestException, aiohttp.ClientError, OSError, TimeoutError),
    *(DecodingError, RecursionError, ValueError, KeyError, TypeError, AttributeError),
)


def _waiting(error: Exception) -> PaymentPending:
    """The finding for a node's failure to answer."""
    missing = isinstance(error, TransactionNotFound)
    return PaymentPending(FailureCode.RECEIPT_NOT_FOUND if missing else FailureCode.RPC_ERROR)


def _found(
    intent: Intent, transaction: HexBytes, receipt: TxReceipt, head: int, canonical: bytes
) -> Finding:
    """The finding from a receipt, at the chain's present height.

    Raises:
        ValueError: the receipt is of another transaction, or has no status.
    """
    if receipt["transactionHash"] != transaction or receipt["status"] not in {0, 1}:
        raise ValueError("no receipt of that transaction")
    confirmations = head - receipt["blockNumber"] + 1
    if confirmations < intent.confirmations or bytes(receipt["blockHash"]) != canonical:
        return PaymentPending(FailureCode.INSUFFICIENT_CONFIRMATIONS)
    if receipt["status"] == 0:
        return PaymentFailed(FailureCode.TX_REVERTED)
    return _of_transfers(intent, list(_transfers(receipt)), confirmations)


def _transfers(receipt: TxReceipt) -> Iterator[Transfer]:
    for log in receipt["logs"]:
        if (found := _transfer(log)) is not None and not log["removed"]:
            yield found


def _transfer(log: LogReceipt) -> Transfer | None:
    """The transfer in a log, or `None` if the log is another event."""
    try:
        event = _EVENT.process_log(log)
    except (Web3Exception, DecodingError):
        return None
    return Transfer(
        token=event["address"].lower(),
        sender=event["args"]["from"].lower(),
        recipient=event["args"]["to"].lower(),
        value=event["args"]["value"],
    )


def _of_transfers(intent: Intent, transfers: list[Transfer], confirmations: int) -> Finding:
    to_us = [each for each in transfers if each.recipient == intent.recipient]
    of_token = [each for each in to_us if each.token == intent.token]
    if not of_token:
        if to_us:
            return PaymentFailed(FailureCode.INVALID_TOKEN)
        if any(each.token == intent.token for each in transfers):
            return PaymentFailed(FailureCode.RECIPIENT_MISMATCH)
        return PaymentFailed(FailureCode.TOKEN_TRANSFER_NOT_FOUND)
    sent = [each for each in of_token if each.sender == intent.payer] or of_token[:1]
    return PaymentVerified(
        provider=intent.provider,
        token=intent.token,
        sender=sent[0].sender,
        recipient=intent.recipient,
        raw_amount=sum(each.value for each in sent),
        confirmations=confirmations,
    )
