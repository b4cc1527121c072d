"""Where a payment is to arrive, and what evidence of it looks like."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Self

from attrs import field, frozen

from cogni_billing.domain.amounts import USD, Amount, in_quanta
from cogni_billing.domain.errors import InvalidInput, InvalidReference, shown
from cogni_billing.domain.identity import reference

USDC_DECIMALS: Final = 6
"""Of USDC on every EVM chain that Circle issues it on: one cent is 10 000 of its raw units."""
DECIMALS_MAX: Final = 18
CONFIRMATIONS_MAX: Final = 10_000

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_TX_HASH = re.compile(r"0x[0-9a-fA-F]{64}", re.ASCII)
_CHAIN = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


def _provider(given: str) -> str:
    found = reference(given, "provider")
    if ":" in found:
        raise InvalidReference("provider", shown(given), "a name without a colon, such as stripe")
    return found


def _token(given: str) -> str:
    return reference(given, "token")


def _recipient(given: str) -> str:
    return reference(given, "recipient")


def _decimals(given: int) -> int:
    return _whole(given, "decimals", USD.scale, DECIMALS_MAX)


def _confirmations(given: int) -> int:
    return _whole(given, "confirmations", 0, CONFIRMATIONS_MAX)


def _whole(given: object, name: str, least: int, most: int) -> int:
    if type(given) is not int or not least <= given <= most:
        raise InvalidInput(name, shown(given), f"a whole number from {least} to {most}")
    return given


@frozen(kw_only=True)
class Destination:
    """What a payment must be made in, and to whom.

    `Destination.usdc(chain_id=8453, token="0x8335…", recipient="0x…", confirmations=5)` for a
    stablecoin; `Destination.card("stripe", recipient="acct_…")` for a card processor.

    Raises:
        InvalidInput: a part breaks its rule.
    """

    provider: str = field(converter=_provider)
    """What evidence begins with: a chain's id, or a processor's name."""
    token: str = field(converter=_token)
    """The contract of the token, or the currency's code."""
    recipient: str = field(converter=_recipient)
    """The address or account that must be paid."""
    decimals: int = field(converter=_decimals)
    """How many the token has: 6 for USDC, 2 for dollars."""
    confirmations: int = field(converter=_confirmations)
    """How many blocks must have followed, its own being the first; 0 where there are none."""

    def __attrs_post_init__(self) -> None:
        if self.is_chain:
            for name in ("token", "recipient"):
                object.__setattr__(self, name, address(getattr(self, name), name))

    @classmethod
    def usdc(cls, *, chain_id: int, token: str, recipient: str, confirmations: int = 5) -> Self:
        """USDC on an EVM chain: six decimals, taken at par with the dollar.

        Five confirmations are for a chain whose blocks are seconds apart and seldom reorganised;
        ask for more elsewhere.
        """
        chain = str(_whole(chain_id, "chain_id", 1, 10**18 - 1))
        return cls(
            provider=chain,
            token=token,
            recipient=recipient,
            decimals=USDC_DECIMALS,
            confirmations=confirmations,
        )

    @classmethod
    def card(cls, provider: str, *, recipient: str) -> Self:
        """US dollars by way of a card processor, counted in cents."""
        return cls(
            provider=provider,
            token="usd",  # noqa: S106 (no secret)
            recipient=recipient,
            decimals=USD.scale,
            confirmations=0,
        )

    @property
    def is_chain(self) -> bool:
        """Whether it is on an EVM chain."""
        return chain_id_of(self.provider) is not None

    def raw_amount(self, amount: Amount) -> int:
        """*amount*, of US dollars, in the smallest units of the token (exact)."""
        return in_quanta(amount.value_in(USD), self.decimals)

    def payer(self, given: object) -> str | None:
        """*given* as who is going to pay; whoever holds that address or account.

        Raises:
            InvalidReference: it is no such thing, or missing where anybody can see payments.
        """
        if self.is_chain:
            return address(given, "payer")
        return None if given is None else reference(given, "payer")


def chain_id_of(provider: str) -> int | None:
    """The chain that *provider* names by its id, if it names one."""
    return int(provider) if _CHAIN.fullmatch(provider) else None


def checked_evidence(given: object) -> str:
    """*given* as evidence of a payment: `8453:0x…` or `stripe:pi_…`.

    A transaction's hash is taken in small letters, so that it is one payment however written.

    Raises:
        InvalidReference: it names no provider and proof; or a chain, and no transaction's hash.
    """
    found = reference(given, "evidence")
    provider, _, proof = found.partition(":")
    if not provider or not proof:
        raise InvalidReference("evidence", shown(given), "provider:id, such as stripe:pi_1")
    if chain_id_of(provider) is None:
        return found
    if not _TX_HASH.fullmatch(proof):
        expected = "chain_id:tx_hash, the hash being 0x and 64 hexadecimal digits"
        raise InvalidReference("evidence", shown(given), expected)
    return found.lower()


def require_provider(evidence: str, provider: str) -> None:
    """Return when *evidence* is of a payment by way of *provider*.

    Raises:
        InvalidReference: it is of another's.
    """
    if evidence.partition(":")[0] != provider:
        raise InvalidReference("evidence", shown(evidence), f"evidence that begins {provider}:")


def address(given: object, name: str) -> str:
    """*given* as an address on an EVM chain, in small letters: their case is a checksum only.

    Raises:
        InvalidReference: it is none.
    """
    if type(given) is not str or not _ADDRESS.fullmatch(given):
        raise InvalidReference(name, shown(given), "an address, 0x and 40 hexadecimal digits")
    return given.lower()


def checked_destinations(given: object) -> tuple[Destination, ...]:
    """*given* as destinations, one for each provider.

    Raises:
        InvalidInput: it is none, holds something else, or two of one provider.
    """
    expected = "a Destination, or some with a provider each"
    many = (given,) if isinstance(given, Destination) else given
    if isinstance(many, (str, bytes)) or not isinstance(many, Iterable):
        raise InvalidInput("destinations", shown(given), expected)
    found = tuple(many)
    if not found or not all(isinstance(each, Destination) for each in found):
        raise InvalidInput("destinations", shown(given), expected)
    if len({each.provider for each in found}) < len(found):
        raise InvalidInput("destinations", "two of one provider", expected)
    return found
