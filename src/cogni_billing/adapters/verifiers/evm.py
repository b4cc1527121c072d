"""Verifies token payments on EVM chains, over JSON-RPC with web3.

Needs the extra `evm`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args

import aiohttp
import requests
from attrs import define, evolve, field, frozen
from eth_abi.exceptions import DecodingError
from hexbytes import HexBytes

_LIMIT = sys.getrecursionlimit()
from web3 import AsyncHTTPProvider, AsyncWeb3, HTTPProvider, Web3  # noqa: E402
from web3.exceptions import TransactionNotFound, Web3Exception  # noqa: E402
from web3.middleware import ExtraDataToPOAMiddleware  # noqa: E402
from web3.types import LogReceipt, TxParams, TxReceipt  # noqa: E402

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


Finality: TypeAlias = Literal["safe", "finalized"]
"""A tag of a block that the chain's validators have voted for."""
_EACH: Final = "one or more JSON-RPC URLs, http:// or https://, for each chain id"
_DECIMALS: Final = HexBytes("0x313ce567")
"""The selector of `decimals()` (https://eips.ethereum.org/EIPS/eip-20)."""
_WORDS: Final = (0, 32)
"""The sizes of an answer to it: a contract without the function returns no bytes."""


@frozen
class Transfer:
    """A token transfer in a transaction, with addresses in lower case."""

    token: str
    sender: str
    recipient: str
    value: int


def _urls(given: Mapping[int, str | Iterable[str]]) -> dict[int, tuple[str, ...]]:
    if not isinstance(given, Mapping) or not given:
        raise InvalidInput("urls", shown(given), _EACH)
    return {chain: _nodes(chain, urls) for chain, urls in given.items()}


def _nodes(chain: object, given: object) -> tuple[str, ...]:
    if type(chain) is not int or chain < 1:
        raise InvalidInput("urls", f"a URL for chain {shown(chain)}", _EACH)
    several = isinstance(given, Iterable) and not isinstance(given, (str, bytes))
    urls: tuple[object, ...] = tuple(given) if several else (given,)  # type: ignore[arg-type]
    # Without a URL web3 would ask localhost. An invalid one is not shown: it may be a key.
    valid = [
        url for url in urls if isinstance(url, str) and url.startswith(("http://", "https://"))
    ]
    if not urls or len(valid) < len(urls) or len(set(urls)) < len(urls):
        raise InvalidInput("urls", f"an invalid URL for chain {chain}", _EACH)
    return tuple(valid)


def _finality(given: Mapping[Any, Any]) -> dict[int, Finality]:
    expected = "safe or finalized, for each chain id"
    if not isinstance(given, Mapping):
        raise InvalidInput("finality", shown(given), expected)
    for chain, tag in given.items():
        if type(chain) is not int or type(tag) is not str or tag not in get_args(Finality):
            raise InvalidInput("finality", f"{shown(tag)} for chain {shown(chain)}", expected)
    return dict(given)


def _require_quorum(given: int, urls: Mapping[int, tuple[str, ...]]) -> None:
    fewest = min(map(len, urls.values()))
    if type(given) is not int or not 1 <= given <= fewest:
        expected = f"a whole number from 1 to {fewest}, the URLs of each chain"
        raise InvalidInput("quorum", shown(given), expected)


def _waits(given: timedelta) -> timedelta:
    return positive_span(given, "waits")


@define
class EvmVerifier:
    """Looks up ERC-20 transfers on EVM chains, in both sync and async code.

    A transaction may pay several parties. The verifier counts all that the intent's payer sent of
    the token to the recipient. One transaction is one payment, so only one intent can claim a
    transaction that several payers share. Of an intent with its own recipient, all transfers to
    that address count, and others can claim the rest of the transaction.

    If a node sends no valid answer, such as an error, a rate limit or invalid JSON, or does not
    know the transaction, the chain's next node is asked. If no node answers, the finding is
    `RPC_ERROR` and the attempt stays pending. `await aclose()` closes the connections of
    `verify_async`.

    Args:
        urls: A JSON-RPC URL for each chain id, or several in the order of their use.
        waits: The timeout of each request. A payment takes three requests of a node, and two more
            the first time, for the chain id and the decimals of the token.
        quorum: The number of a chain's nodes that must find the same.
        finality: For a chain id, the block that the payment must be in or before: the latest `safe`
            or `finalized` block. It is needed beside the confirmations of the destination.

    Raises:
        InvalidInput: *urls* is empty or invalid, *waits* is no span of time, *quorum* is above the
            number of a chain's URLs, or *finality* is invalid.
    """

    _urls: dict[int, tuple[str, ...]] = field(
        converter=_urls, repr=False
    )  # a URL's path may hold a key
    waits: timedelta = field(default=WAITS, kw_only=True, converter=_waits)
    quorum: int = field(default=1, kw_only=True)
    finality: Mapping[int, Finality] = field(factory=dict, kw_only=True, converter=_finality)
    _called: dict[str, Web3] = field(factory=dict, init=False, repr=False)
    _awaited: dict[str, AsyncWeb3[AsyncHTTPProvider]] = field(factory=dict, init=False, repr=False)
    _right: set[tuple[str, str]] = field(factory=set, init=False, repr=False)
    """Nodes that have reported the right chain id, and the right decimals of a token."""

    def __attrs_post_init__(self) -> None:
        _require_quorum(self.quorum, self._urls)

    def verify(self, evidence: str, intent: Intent, /) -> Finding:
        """The finding on the payment.

        Raises:
            InvalidInput: the intent's chain has no URL, a URL is of another chain, or the token has
                other decimals than the intent.
        """
        chain, transaction = _sought(evidence)
        findings: list[Finding] = []
        for url in self._of(chain):
            findings.append(self._ask(url, chain, transaction, intent))
            if _agreed(findings, self.quorum) is not None:
                break
        return _conclusion(findings, self.quorum)

    async def verify_async(self, evidence: str, intent: Intent, /) -> Finding:
        """The finding on the payment.

        Raises:
            InvalidInput: the intent's chain has no URL, a URL is of another chain, or the token has
                other decimals than the intent.
        """
        chain, transaction = _sought(evidence)
        findings: list[Finding] = []
        for url in self._of(chain):
            findings.append(await self._ask_async(url, chain, transaction, intent))
            if _agreed(findings, self.quorum) is not None:
                break
        return _conclusion(findings, self.quorum)

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        for node in self._awaited.values():
            await node.provider.disconnect()

    def _ask(self, url: str, chain: int, transaction: HexBytes, intent: Intent) -> Finding:
        eth = self._node(url).eth
        try:
            if (url, intent.token) not in self._right:
                chain_id, decimals = eth.chain_id, eth.call(_decimals_of(intent))
                self._note(url, chain, int(chain_id), decimals, intent)
            head = settled = eth.block_number
            if chain in self.finality:
                settled = eth.get_block(self.finality[chain])["number"]
            receipt = eth.get_transaction_receipt(transaction)
            if receipt["blockNumber"] > settled:
                return PaymentPending(FailureCode.INSUFFICIENT_CONFIRMATIONS)
            block = eth.get_block(receipt["blockNumber"])
            return _found(intent, transaction, receipt, head, bytes(block["hash"]))
        except _FAILURES as error:
            return _waiting(error)

    async def _ask_async(
        self, url: str, chain: int, transaction: HexBytes, intent: Intent
    ) -> Finding:
        eth = self._awaited_node(url).eth
        try:
            if (url, intent.token) not in self._right:
                chain_id, decimals = await eth.chain_id, await eth.call(_decimals_of(intent))
                self._note(url, chain, int(chain_id), decimals, intent)
            head = settled = await eth.block_number
            if chain in self.finality:
                settled = (await eth.get_block(self.finality[chain]))["number"]
            receipt = await eth.get_transaction_receipt(transaction)
            if receipt["blockNumber"] > settled:
                return PaymentPending(FailureCode.INSUFFICIENT_CONFIRMATIONS)
            block = await eth.get_block(receipt["blockNumber"])
            return _found(intent, transaction, receipt, head, bytes(block["hash"]))
        except _FAILURES as error:
            return _waiting(error)

    def _node(self, url: str) -> Web3:
        if url not in self._called:
            options = {"timeout": self.waits.total_seconds()}
            provider = HTTPProvider(url, request_kwargs=options, exception_retry_configuration=None)
            self._called[url] = _any_chain(Web3(provider))
        return self._called[url]

    def _awaited_node(self, url: str) -> AsyncWeb3[AsyncHTTPProvider]:
        if url not in self._awaited:
            options = {"timeout": aiohttp.ClientTimeout(self.waits.total_seconds())}
            provider = AsyncHTTPProvider(
                url, request_kwargs=options, exception_retry_configuration=None
            )
            self._awaited[url] = _any_chain(AsyncWeb3(provider))
        return self._awaited[url]

    def _of(self, chain: int) -> tuple[str, ...]:
        if chain not in self._urls:
            known = " or ".join(map(str, self._urls))
            raise InvalidInput("chain_id", shown(chain), known)
        return self._urls[chain]

    def _note(
        self, url: str, chain: int, answered: int, decimals: HexBytes, intent: Intent
    ) -> None:
        if answered != chain:
            raise InvalidInput("urls", f"a node of chain {answered}", f"a node of chain {chain}")
        if len(decimals) not in _WORDS:
            raise ValueError("no number of decimals")
        if not decimals or not intent.is_counted_in(int.from_bytes(decimals)):
            given = f"{int.from_bytes(decimals)} decimals" if decimals else "no decimals()"
            raise InvalidInput("token", f"a contract with {given}", "the destination's decimals")
        self._right.add((url, intent.token))


Node = TypeVar("Node", Web3, AsyncWeb3[AsyncHTTPProvider])


def _any_chain(node: Node) -> Node:
    # Blocks of proof-of-authority chains have more extra data than web3 accepts by default.
    node.middleware_onion.inject(ExtraDataToPOAMiddleware, layer=0)
    node.middleware_onion.remove("validation")  # asks for the chain id before each `eth_call`
    return node


def _sought(evidence: str) -> tuple[int, HexBytes]:
    chain, transaction, *_ = evidence.split(":")
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


_OPEN: Final = (
    PaymentPending(FailureCode.RPC_ERROR),
    PaymentPending(FailureCode.RECEIPT_NOT_FOUND),
)
"""Findings after which the next node is asked. It may know more."""


def _agreed(findings: list[Finding], quorum: int) -> Finding | None:
    """The finding of *quorum* nodes, or `None`. Nodes may be some blocks apart."""
    for found in findings:
        alike = [each for each in findings if _without_blocks(each) == _without_blocks(found)]
        if found not in _OPEN and len(alike) >= quorum:
            return min(alike, key=lambda each: getattr(each, "confirmations", 0))
    return None


def _conclusion(findings: list[Finding], quorum: int) -> Finding:
    failed, missing = _OPEN
    agreed = _agreed(findings, quorum)
    return agreed or (missing if findings.count(missing) >= quorum else failed)


def _without_blocks(finding: Finding) -> Finding:
    return evolve(finding, confirmations=0) if isinstance(finding, PaymentVerified) else finding


def _decimals_of(intent: Intent) -> TxParams:
    return {"to": Web3.to_checksum_address(intent.token), "data": _DECIMALS}


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
        if (found := _transfer(log)) is not None and not log.get("removed"):
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
    if intent.has_own_recipient:
        sent = of_token
    else:
        sent = [each for each in of_token if each.sender == intent.payer] or of_token[:1]
    return PaymentVerified(
        provider=intent.provider,
        token=intent.token,
        sender=sent[0].sender,
        recipient=intent.recipient,
        raw_amount=sum(each.value for each in sent),
        confirmations=confirmations,
    )
