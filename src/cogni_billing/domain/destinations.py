"""Destinations of payments, and the form of their evidence."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Final, Self

from attrs import field, frozen
from attrs.validators import optional

from cogni_billing.domain.amounts import USD, Amount, in_quanta
from cogni_billing.domain.attempt_limits import require_span
from cogni_billing.domain.errors import InvalidInput, InvalidReference, shown
from cogni_billing.domain.identity import provider_id, reference
from cogni_billing.domain.keccak import keccak256

USDC_DECIMALS: Final = 6
"""USDC has the same decimals on every EVM chain of Circle: one cent is 10 000 raw units."""
DECIMALS_MAX: Final = 18
CONFIRMATIONS_MAX: Final = 10_000

_LOWER_MAX: Final = 7
"""The largest hexadecimal digit of the hash under which a letter of an address is in lower case."""
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}", re.ASCII)
_PROOF = re.compile(r"0x[0-9a-fA-F]{64}(?::0x[0-9a-fA-F]{40})?", re.ASCII)
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


def _whole(given: object, name: str, least: int, limit: int) -> int:
    if type(given) is not int or not least <= given <= limit:
        raise InvalidInput(name, shown(given), f"a whole number from {least} to {limit}")
    return given


@frozen(kw_only=True)
class Destination:
    """The place to pay, and the token or currency to pay in.

    `Destination.usdc(chain_id=8453, token="0x8335…", recipient="0x…", confirmations=5)` is for a
    stablecoin. `Destination.card("stripe", recipient="acct_…")` is for a card processor.

    Raises:
        InvalidInput: a field is invalid.
    """

    provider: str = field(converter=_provider)
    """The prefix of evidence: the id of a chain, or the name of a processor."""
    token: str = field(converter=_token)
    """The contract of the token, or the currency's code."""
    recipient: str = field(converter=_recipient)
    """The address or account that must be paid."""
    decimals: int = field(converter=_decimals)
    """The decimal places of the token: 6 for USDC, 2 for dollars."""
    confirmations: int = field(converter=_confirmations)
    """The required number of blocks, counting the payment's own. 0 without blocks."""
    expires_after: timedelta | None = field(default=None, validator=optional(require_span))
    """The time to submit evidence. `None` is the time of the rules."""

    def __attrs_post_init__(self) -> None:
        if self.is_chain:
            for name in ("token", "recipient"):
                object.__setattr__(self, name, address(getattr(self, name), name))

    @classmethod
    def usdc(
        cls,
        *,
        chain_id: int,
        token: str,
        recipient: str,
        confirmations: int = 5,
        expires_after: timedelta | None = None,
    ) -> Self:
        """USDC on an EVM chain: six decimals, at par with the US dollar.

        Five confirmations suit a chain with blocks every few seconds and few reorganisations.
        Require more on other chains.
        """
        chain = str(_whole(chain_id, "chain_id", 1, 10**18 - 1))
        return cls(
            provider=chain,
            token=token,
            recipient=recipient,
            decimals=USDC_DECIMALS,
            confirmations=confirmations,
            expires_after=expires_after,
        )

    @classmethod
    def card(cls, provider: str, *, recipient: str, expires_after: timedelta | None = None) -> Self:
        """US dollars through a card processor, counted in cents."""
        return cls(
            provider=provider,
            token="usd",  # noqa: S106 (no secret)
            recipient=recipient,
            decimals=USD.scale,
            confirmations=0,
            expires_after=expires_after,
        )

    @property
    def is_chain(self) -> bool:
        """True if the destination is on an EVM chain."""
        return chain_id_of(self.provider) is not None

    def raw_amount(self, amount: Amount) -> int:
        """*amount*, in US dollars, in the smallest units of the token (exact)."""
        return in_quanta(amount.value_in(USD), self.decimals)

    def payer(self, given: object, recipient: object = None) -> str | None:
        """*given* as the address or account that will pay.

        Raises:
            InvalidReference: *given* is invalid, or is missing on a chain, where payments are
                public, or is not needed because the intent has its own *recipient*.
        """
        if not self.is_chain:
            return None if given is None else reference(given, "payer")
        if recipient is None:
            return address(given, "payer")
        if given is not None:
            raise InvalidReference("payer", shown(given), "None, as the intent has a recipient")
        return None

    def own_recipient(self, given: object) -> str:
        """*given* as the recipient of one intent. `None` is the destination's own.

        Raises:
            InvalidReference: *given* is no address on a chain, or is the destination's own.
        """
        if given is None:
            return self.recipient
        if not self.is_chain:
            raise InvalidReference("recipient", shown(given), "None, except on a chain")
        found = address(given, "recipient")
        if found == self.recipient:
            raise InvalidReference("recipient", shown(given), "an address of this intent alone")
        return found


def chain_id_of(provider: str) -> int | None:
    """The chain id that *provider* is, or `None` if *provider* is no chain."""
    return int(provider) if _CHAIN.fullmatch(provider) else None


def checked_evidence(given: object, name: str = "evidence") -> str:
    """*given* as evidence of a payment: `8453:0x…`, `8453:0x…:0x…` or `stripe:pi_…`.

    A transaction hash is converted to lower case, so that one payment has one spelling.

    Raises:
        InvalidReference: the provider or the proof is missing, or the proof of a chain is no
            transaction hash.
    """
    found = provider_id(given, name)
    provider, _, proof = found.partition(":")
    if chain_id_of(provider) is None:
        return found
    if not _PROOF.fullmatch(proof):
        expected = "chain_id:tx_hash, where tx_hash is 0x and 64 hexadecimal digits"
        raise InvalidReference(name, shown(given), expected)
    return found.lower()


def evidence_parts(evidence: str) -> tuple[str, str | None]:
    """The transaction in *evidence* on a chain, `chain_id:tx_hash`, and the recipient after it."""
    chain, tx_hash, *recipient = evidence.split(":")
    return f"{chain}:{tx_hash}", recipient[0] if recipient else None


def require_provider(evidence: str, provider: str) -> None:
    """Return if *evidence* is of a payment through *provider*.

    Raises:
        InvalidReference: the evidence names another provider.
    """
    if evidence.partition(":")[0] != provider:
        raise InvalidReference("evidence", shown(evidence), f"evidence beginning with {provider}:")


def address(given: object, name: str) -> str:
    """*given* as an address on an EVM chain, in lower case.

    Mixed case is a checksum (https://eips.ethereum.org/EIPS/eip-55). One case has none.

    Raises:
        InvalidReference: *given* is no address, or its checksum is wrong.
    """
    if type(given) is not str or not _ADDRESS.fullmatch(given):
        raise InvalidReference(name, shown(given), "an address, 0x and 40 hexadecimal digits")
    digits = given[2:]
    if digits not in (digits.lower(), digits.upper(), _checksummed(digits.lower())):
        raise InvalidReference(name, shown(given), "an address whose upper case is its checksum")
    return given.lower()


def _checksummed(digits: str) -> str:
    hashed = keccak256(digits.encode()).hex()
    return "".join(
        digit.upper() if int(nibble, 16) > _LOWER_MAX else digit
        for digit, nibble in zip(digits, hashed, strict=False)
    )


def checked_aliases(given: object) -> frozenset[str]:
    """*given* as other ids of a payment, each in the form of evidence.

    Raises:
        InvalidInput: *given* is no iterable of texts.
        InvalidReference: an id is invalid.
    """
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise InvalidInput("aliases", shown(given), "a sequence of provider:id")
    return frozenset(checked_evidence(each, "aliases") for each in given)


def checked_destinations(given: object) -> tuple[Destination, ...]:
    """*given* as destinations, one for each provider.

    Raises:
        InvalidInput: *given* is empty, holds another type, or has a provider twice.
    """
    expected = "one or more Destination, each with another provider"
    many = (given,) if isinstance(given, Destination) else given
    if isinstance(many, (str, bytes)) or not isinstance(many, Iterable):
        raise InvalidInput("destinations", shown(given), expected)
    found = tuple(many)
    if not found or not all(isinstance(each, Destination) for each in found):
        raise InvalidInput("destinations", shown(given), expected)
    if len({each.provider for each in found}) < len(found):
        raise InvalidInput("destinations", "a provider twice", expected)
    return found
