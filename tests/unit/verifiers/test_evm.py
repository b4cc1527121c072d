"""Payments on chains, verified on a fake node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from threading import Event
from typing import Any

import pytest
from attrs import evolve

from cogni_billing import (
    AttemptState,
    FailureCode,
    Intent,
    InvalidInput,
    PaymentAttempts,
    PaymentFailed,
    PaymentPending,
    PaymentVerified,
    usd,
)
from cogni_billing.adapters.memory import InMemoryUnitOfWork
from cogni_billing.adapters.verifiers.evm import EvmVerifier
from cogni_billing.domain.findings import Finding
from cogni_billing.testing import ALICE, MovableClock
from cogni_billing.testing.contracts.attempt_base import (
    PLATFORM,
    POLL,
    PROOF,
    STRANGER,
    TOKEN,
    USDC,
    WALLET,
)
from unit.verifiers.json_rpc import BLOCK, Node, block, receipt, serving, transfer

Verify = Callable[..., Finding]
"""Takes an intent, and a timeout (by default `LONG`)."""
LONG = timedelta(minutes=1)
PAID = transfer(TOKEN, WALLET, PLATFORM, 2_000_000)
OF_A_COLLECTIBLE = {**PAID, "topics": [*PAID["topics"], "0x" + "0" * 64], "data": "0x"}
DIRTY = {**PAID, "topics": [PAID["topics"][0], "0x" + "ff" * 32, PAID["topics"][2]]}
"""A log with an invalid address, as a foreign token may emit it."""
CODE = FailureCode


@pytest.fixture
def intent() -> Intent:
    attempts = PaymentAttempts(
        InMemoryUnitOfWork(), verifier=EvmVerifier({1: "http://n"}), destinations=USDC
    )
    return attempts.create_intent(ALICE, usd("2.00"), payer=WALLET)


@pytest.fixture
def node() -> Iterator[Node]:
    """A node of chain 8453 with five confirmations of the payment."""
    results: dict[str, Any] = {
        "eth_chainId": hex(8453),
        "eth_call": f"0x{6:064x}",
        "eth_blockNumber": hex(BLOCK + 4),
        "eth_getTransactionReceipt": receipt(PAID),
        "eth_getBlockByNumber": block(BLOCK),
    }
    with serving(Node(results)) as node:
        yield node


@pytest.fixture(params=["called", "awaited"])
def verify(request: pytest.FixtureRequest, node: Node) -> Verify:
    def called(intent: Intent, waits: timedelta = LONG) -> Finding:
        return EvmVerifier({8453: node.url}, waits=waits).verify(PROOF, intent)

    def awaited(intent: Intent, waits: timedelta = LONG) -> Finding:
        async def ask() -> Finding:
            verifier = EvmVerifier({8453: node.url}, waits=waits)
            try:
                return await verifier.verify_async(PROOF, intent)
            finally:
                await verifier.aclose()

        return asyncio.run(ask())

    return called if request.param == "called" else awaited


def verified(**changes: Any) -> PaymentVerified:
    found = PaymentVerified(
        provider="8453",
        token=TOKEN,
        sender=WALLET,
        recipient=PLATFORM,
        raw_amount=2_000_000,
        confirmations=5,
    )
    return evolve(found, **changes)


def test_a_transfer_is_found(verify: Verify, intent: Intent, node: Node) -> None:
    assert verify(intent) == verified()
    assert node.asked == [
        "eth_chainId",
        "eth_call",
        "eth_blockNumber",
        "eth_getTransactionReceipt",
        "eth_getBlockByNumber",
    ]


def test_the_chain_is_asked_for_once(intent: Intent, node: Node) -> None:
    verifier = EvmVerifier({8453: node.url}, waits=LONG)
    for _ in range(3):
        assert verifier.verify(PROOF, intent) == verified()

    assert node.asked.count("eth_chainId") == node.asked.count("eth_call") == 1


@pytest.mark.parametrize(
    ("logs", "found"),
    [
        ([], PaymentFailed(CODE.TOKEN_TRANSFER_NOT_FOUND)),
        ([transfer(STRANGER, WALLET, STRANGER, 1)], PaymentFailed(CODE.TOKEN_TRANSFER_NOT_FOUND)),
        ([transfer(STRANGER, WALLET, PLATFORM, 2_000_000)], PaymentFailed(CODE.INVALID_TOKEN)),
        ([transfer(TOKEN, WALLET, STRANGER, 2_000_000)], PaymentFailed(CODE.RECIPIENT_MISMATCH)),
        ([transfer(TOKEN, STRANGER, PLATFORM, 2_000_000)], verified(sender=STRANGER)),
        ([transfer(TOKEN, WALLET, PLATFORM, 1)], verified(raw_amount=1)),
        ([transfer(TOKEN, STRANGER, PLATFORM, 9), PAID], verified()),
        (
            [transfer(TOKEN, STRANGER, PLATFORM, 9), transfer(TOKEN, TOKEN, PLATFORM, 7)],
            verified(sender=STRANGER, raw_amount=9),
        ),
        ([PAID, PAID], verified(raw_amount=4_000_000)),
        ([transfer(TOKEN.upper().replace("X", "x"), WALLET, PLATFORM, 2_000_000)], verified()),
        ([OF_A_COLLECTIBLE], PaymentFailed(CODE.TOKEN_TRANSFER_NOT_FOUND)),
        ([{**PAID, "topics": ["0x" + "11" * 32]}, PAID], verified()),
        ([DIRTY, PAID], verified()),
        ([{**PAID, "removed": True}, PAID], verified()),
        ([{name: PAID[name] for name in PAID if name != "removed"}], verified()),
    ],
)
def test_transfers_of_the_payer_in_the_token_to_the_recipient_count(
    verify: Verify, intent: Intent, node: Node, logs: list[dict[str, Any]], found: Finding
) -> None:
    node.results["eth_getTransactionReceipt"] = receipt(*logs)

    assert verify(intent) == found


def test_all_transfers_to_an_intents_own_recipient_count(
    verify: Verify, intent: Intent, node: Node
) -> None:
    own = evolve(intent, payer=None)
    logs = [transfer(TOKEN, STRANGER, PLATFORM, 9), transfer(TOKEN, STRANGER, WALLET, 5), PAID]
    node.results["eth_getTransactionReceipt"] = receipt(*logs)

    assert verify(own) == verified(sender=STRANGER, raw_amount=2_000_009)


def test_evidence_with_a_recipient_names_its_transaction(intent: Intent, node: Node) -> None:
    verifier = EvmVerifier({8453: node.url}, waits=LONG)

    assert verifier.verify(f"{PROOF}:{PLATFORM}", intent) == verified()


def test_a_reverted_transaction_has_failed(verify: Verify, intent: Intent, node: Node) -> None:
    node.results["eth_getTransactionReceipt"] = receipt(PAID, status=0)

    assert verify(intent) == PaymentFailed(CODE.TX_REVERTED)


def test_an_unknown_transaction_is_pending(verify: Verify, intent: Intent, node: Node) -> None:
    node.results["eth_getTransactionReceipt"] = None

    assert verify(intent) == PaymentPending(CODE.RECEIPT_NOT_FOUND)


@pytest.mark.parametrize("head", [BLOCK + 3, BLOCK, BLOCK - 7])
@pytest.mark.parametrize("status", [0, 1])
def test_too_few_confirmations_are_pending(
    verify: Verify, intent: Intent, node: Node, head: int, status: int
) -> None:
    node.results["eth_blockNumber"] = hex(head)
    node.results["eth_getTransactionReceipt"] = receipt(PAID, status=status)

    assert verify(intent) == PaymentPending(CODE.INSUFFICIENT_CONFIRMATIONS)


def test_a_receipt_of_an_orphaned_block_is_pending(
    verify: Verify, intent: Intent, node: Node
) -> None:
    node.results["eth_getBlockByNumber"] = block(BLOCK) | {"hash": "0x" + "99" * 32}

    assert verify(intent) == PaymentPending(CODE.INSUFFICIENT_CONFIRMATIONS)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("settled", "found"),
    [
        (BLOCK - 1, PaymentPending(CODE.INSUFFICIENT_CONFIRMATIONS)),
        (BLOCK, verified()),
        (BLOCK + 1, verified()),
    ],
)
def test_a_payment_waits_until_its_block_is_finalized(
    intent: Intent, node: Node, is_async: bool, settled: int, found: Finding
) -> None:
    node.results["finalized"] = block(settled)
    verifier = EvmVerifier({8453: node.url}, waits=LONG, finality={8453: "finalized"})

    async def ask() -> Finding:
        try:
            return await verifier.verify_async(PROOF, intent)
        finally:
            await verifier.aclose()

    answer = asyncio.run(ask()) if is_async else verifier.verify(PROOF, intent)

    assert answer == found
    assert "finalized" in node.asked


def test_a_payment_in_a_finalized_block_needs_its_confirmations(intent: Intent, node: Node) -> None:
    node.results |= {"safe": block(BLOCK), "eth_blockNumber": hex(BLOCK + 3)}
    verifier = EvmVerifier({8453: node.url}, waits=LONG, finality={8453: "safe"})

    assert verifier.verify(PROOF, intent) == PaymentPending(CODE.INSUFFICIENT_CONFIRMATIONS)


@pytest.mark.parametrize("given", [None, "safe", {8453: "latest"}, {"8453": "safe"}, {1: []}])
def test_an_invalid_finality_is_refused(given: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        EvmVerifier({8453: "http://n"}, finality=given)

    assert caught.value.field == "finality"


def test_blocks_of_proof_of_authority_chains_are_read(
    verify: Verify, intent: Intent, node: Node
) -> None:
    node.results["eth_getBlockByNumber"] = block(BLOCK, extra="0x" + "ee" * 97)

    assert verify(intent) == verified()


def _told(value: object) -> tuple[int, bytes]:
    return 200, json.dumps({"jsonrpc": "2.0", "id": 0, "result": value}).encode()


@pytest.mark.parametrize(
    "instead",
    [
        lambda: (429, b'{"error": {"code": 429, "message": "slow down"}}'),
        lambda: (500, b"oops"),
        lambda: (200, b"<html>maintenance</html>"),
        lambda: (200, b""),
        lambda: (200, b"[]"),
        lambda: (200, b"null"),
        lambda: (200, b'{"jsonrpc": "2.0", "id": 0}'),
        lambda: (
            200,
            b'{"jsonrpc":"2.0","id":0,"error":{"code":-32005,"message":"limit exceeded"}}',
        ),
        lambda: (200, b"[" * 100_000),
        lambda: _told("not hexadecimal"),
        lambda: _told({"some": "thing"}),
    ],
)
def test_an_invalid_answer_is_pending(
    verify: Verify, intent: Intent, node: Node, instead: Callable[[], tuple[int, bytes]]
) -> None:
    node.instead = instead

    assert verify(intent) == PaymentPending(CODE.RPC_ERROR)


@pytest.mark.parametrize("missing", ["blockNumber", "blockHash", "status", "logs"])
def test_an_incomplete_receipt_is_pending(
    verify: Verify, intent: Intent, node: Node, missing: str
) -> None:
    whole = receipt(PAID)
    del whole[missing]
    node.results["eth_getTransactionReceipt"] = whole

    assert verify(intent) == PaymentPending(CODE.RPC_ERROR)


@pytest.mark.parametrize(
    "odd", [{"status": None}, {"status": "0x2"}, {"transactionHash": "0x" + "cd" * 32}]
)
def test_a_receipt_with_another_hash_or_status_is_pending(
    verify: Verify, intent: Intent, node: Node, odd: dict[str, Any]
) -> None:
    node.results["eth_getTransactionReceipt"] = receipt(PAID) | odd

    assert verify(intent) == PaymentPending(CODE.RPC_ERROR)


def test_a_node_without_an_answer_times_out(verify: Verify, intent: Intent, node: Node) -> None:
    ended = Event()

    def never() -> tuple[int, bytes]:
        ended.wait()
        return 200, b"{}"

    node.instead = never
    try:
        assert verify(intent, timedelta(milliseconds=100)) == PaymentPending(CODE.RPC_ERROR)
    finally:
        ended.set()


def test_a_node_that_fails_is_asked_again_later_not_at_once(
    verify: Verify, intent: Intent, node: Node
) -> None:
    node.instead = lambda: (500, b"oops")

    verify(intent)

    assert node.asked == ["eth_chainId"]


def test_an_unreachable_node_is_pending(intent: Intent) -> None:
    with serving(Node()) as gone:
        url = gone.url

    assert EvmVerifier({8453: url}).verify(PROOF, intent) == PaymentPending(CODE.RPC_ERROR)


def test_a_node_of_another_chain_raises_invalid_input(
    verify: Verify, intent: Intent, node: Node
) -> None:
    node.results["eth_chainId"] = "0x1"

    with pytest.raises(InvalidInput) as caught:
        verify(intent)

    assert (caught.value.field, caught.value.given) == ("urls", "a node of chain 1")
    assert caught.value.expected == "a node of chain 8453"


@pytest.mark.parametrize(
    ("answer", "given"),
    [(f"0x{18:064x}", "a contract with 18 decimals"), ("0x", "a contract with no decimals()")],
)
def test_a_token_with_other_decimals_raises_invalid_input(
    verify: Verify, intent: Intent, node: Node, answer: str, given: str
) -> None:
    node.results["eth_call"] = answer

    with pytest.raises(InvalidInput) as caught:
        verify(intent)

    assert (caught.value.field, caught.value.given) == ("token", given)


def test_an_invalid_answer_about_decimals_is_pending(
    verify: Verify, intent: Intent, node: Node
) -> None:
    node.results["eth_call"] = "0x06"

    assert verify(intent) == PaymentPending(CODE.RPC_ERROR)


ABSENT, DOWN = {"eth_getTransactionReceipt": None}, {"eth_blockNumber": "?"}
LESS = {"eth_getTransactionReceipt": receipt(transfer(TOKEN, WALLET, PLATFORM, 1))}
AHEAD = {"eth_blockNumber": hex(BLOCK + 9)}
FEW = {"eth_blockNumber": hex(BLOCK)}
MISSING, ERROR = PaymentPending(CODE.RECEIPT_NOT_FOUND), PaymentPending(CODE.RPC_ERROR)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("quorum", "nodes", "found", "asked"),
    [
        (1, [{}, DOWN], verified(), 1),
        (1, [DOWN, {}], verified(), 2),
        (1, [ABSENT, {}], verified(), 2),
        (1, [ABSENT, DOWN], MISSING, 2),
        (1, [DOWN, DOWN], ERROR, 2),
        (1, [FEW, {}], PaymentPending(CODE.INSUFFICIENT_CONFIRMATIONS), 1),
        (2, [AHEAD, {}, DOWN], verified(), 2),
        (2, [{}, DOWN, AHEAD], verified(), 3),
        (2, [{}, LESS, {}], verified(), 3),
        (2, [{}, LESS], ERROR, 2),
        (2, [{}, ABSENT, ABSENT], MISSING, 3),
        (2, [{}, ABSENT, DOWN], ERROR, 3),
        (3, [{}, {}, {}], verified(), 3),
    ],
)
def test_several_nodes_stand_in_for_each_other_and_agree(
    intent: Intent,
    node: Node,
    is_async: bool,
    quorum: int,
    nodes: list[dict[str, Any]],
    found: Finding,
    asked: int,
) -> None:
    with ExitStack() as stack:
        chain = [stack.enter_context(serving(Node(node.results | each))) for each in nodes]
        urls = [each.url for each in chain]
        verifier = EvmVerifier({8453: urls}, waits=LONG, quorum=quorum)
        if is_async:

            async def ask() -> Finding:
                try:
                    return await verifier.verify_async(PROOF, intent)
                finally:
                    await verifier.aclose()

            assert asyncio.run(ask()) == found
        else:
            assert verifier.verify(PROOF, intent) == found

    assert [bool(each.asked) for each in chain] == [n < asked for n in range(len(nodes))]


@pytest.mark.parametrize("quorum", [0, 2, True, None, 1.0])
def test_an_invalid_quorum_is_refused(quorum: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        EvmVerifier({1: ["http://a", "http://b"], 10: "http://c"}, quorum=quorum)

    assert caught.value.field == "quorum"


def test_a_chain_without_a_url_raises_invalid_input(intent: Intent) -> None:
    with pytest.raises(InvalidInput) as caught:
        EvmVerifier({1: "http://n", 10: "https://n"}).verify(PROOF, intent)
    assert (caught.value.field, caught.value.given) == ("chain_id", "8453")
    assert caught.value.expected == "1 or 10"


@pytest.mark.parametrize(
    ("urls", "shown"),
    [
        ({}, "a dict"),
        (None, "None"),
        ("http://n", "'http://n'"),
        ({"1": "http://n"}, "a URL for chain '1'"),
        ({0: "http://n"}, "a URL for chain 0"),
        ({True: "http://n"}, "a URL for chain True"),
        ({1: "http://n", 10: None}, "an invalid URL for chain 10"),
        ({1: ""}, "an invalid URL for chain 1"),
        ({1: "secret"}, "an invalid URL for chain 1"),
        ({1: b"http://n"}, "an invalid URL for chain 1"),
        ({1: []}, "an invalid URL for chain 1"),
        ({1: ["http://n", "secret"]}, "an invalid URL for chain 1"),
        ({1: ["http://n", "http://n"]}, "an invalid URL for chain 1"),
    ],
)
def test_invalid_urls_are_refused(urls: Any, shown: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        EvmVerifier(urls)

    assert (caught.value.field, caught.value.given) == ("urls", shown)


@pytest.mark.parametrize(
    ("waits", "shown"),
    [(None, "None"), (5, "5"), (timedelta(0), "'0:00:00'"), (timedelta.max, None)],
)
def test_an_invalid_timeout_is_refused(waits: Any, shown: str | None) -> None:
    with pytest.raises(InvalidInput) as caught:
        EvmVerifier({1: "http://n"}, waits=waits)

    given = shown or f"'{timedelta.max}'"
    assert (caught.value.field, caught.value.given) == ("waits", given)


def test_the_recursion_limit_of_python_is_unchanged() -> None:
    """Otherwise deeply nested JSON would crash the process."""
    with pytest.raises(RecursionError):
        json.loads("[" * 100_000)


def test_a_payment_on_a_chain_is_credited(node: Node) -> None:
    clock = MovableClock()
    attempts = PaymentAttempts(
        InMemoryUnitOfWork(),
        verifier=EvmVerifier({8453: node.url}, waits=LONG),
        answers_within=LONG,
        destinations=USDC,
        clock=clock,
    )
    intent = attempts.create_intent(ALICE, usd("2.00"), payer=WALLET)
    node.results["eth_blockNumber"] = hex(BLOCK)

    states = [attempts.submit(ALICE, intent.attempt_id, PROOF).state]
    node.results["eth_blockNumber"] = hex(BLOCK + 4)
    clock.move(POLL)
    states.append(attempts.status(ALICE, intent.attempt_id).state)

    assert states == [AttemptState.PENDING_UNVERIFIED, AttemptState.CREDITED]
