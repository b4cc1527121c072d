"""Keccak-256, the hash of Ethereum. The SHA-3 of the standard library pads differently."""

from __future__ import annotations

from typing import Final

_LANES: Final = 25
_RATE: Final = 136
"""The bytes of a block, for a digest of 32 bytes."""
_MASK: Final = 2**64 - 1
_ROUNDS: Final = 24


def keccak256(message: bytes) -> bytes:
    """The digest of *message* (https://keccak.team/keccak_specs_summary.html)."""
    padded = bytearray(message + b"\x01" + bytes(-(len(message) + 1) % _RATE))
    padded[-1] |= 0x80
    state = [0] * _LANES
    for start in range(0, len(padded), _RATE):
        for lane in range(_RATE // 8):
            at = start + 8 * lane
            state[lane] ^= int.from_bytes(padded[at : at + 8], "little")
        state = _permuted(state)
    return b"".join(lane.to_bytes(8, "little") for lane in state[:4])


def _permuted(state: list[int]) -> list[int]:
    register = 1
    for _ in range(_ROUNDS):
        state = _mixed(state)
        for bit in range(7):
            register = register << 1 ^ (register >> 7) * 0x171
            if register & 2:
                state[0] ^= 1 << (2**bit - 1)
    return state


def _mixed(state: list[int]) -> list[int]:
    """One round without its constant: the steps theta, rho, pi and chi."""
    columns = [
        state[x] ^ state[x + 5] ^ state[x + 10] ^ state[x + 15] ^ state[x + 20] for x in range(5)
    ]
    lanes = [
        lane ^ columns[(n + 4) % 5] ^ _turned(columns[(n + 1) % 5], 1)
        for n, lane in enumerate(state)
    ]
    x, y, current = 1, 0, lanes[1]
    for turn in range(_ROUNDS):
        x, y = y, (2 * x + 3 * y) % 5
        current, lanes[x + 5 * y] = lanes[x + 5 * y], _turned(current, (turn + 1) * (turn + 2) // 2)
    return [
        lanes[n] ^ (~lanes[n - n % 5 + (n + 1) % 5] & lanes[n - n % 5 + (n + 2) % 5] & _MASK)
        for n in range(_LANES)
    ]


def _turned(lane: int, bits: int) -> int:
    """*lane*, rotated to the left."""
    bits %= 64
    return (lane << bits | lane >> (64 - bits)) & _MASK
