"""Keccak-256, compared with published digests and with another implementation."""

from __future__ import annotations

import pytest
from eth_hash.auto import keccak
from hypothesis import given
from hypothesis import strategies as st

from cogni_billing.domain.keccak import keccak256


@pytest.mark.parametrize(
    ("message", "digest"),
    [
        (b"", "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"),
        (b"abc", "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"),
    ],
)
def test_known_messages_have_their_digest(message: bytes, digest: str) -> None:
    assert keccak256(message).hex() == digest


@given(st.binary(max_size=300))
def test_digests_equal_those_of_another_implementation(message: bytes) -> None:
    assert keccak256(message) == keccak(message)


@pytest.mark.parametrize("size", [134, 135, 136, 137, 271, 272])
def test_digests_at_the_border_of_a_block_equal_those_of_another_implementation(size: int) -> None:
    assert keccak256(b"\xff" * size) == keccak(b"\xff" * size)
