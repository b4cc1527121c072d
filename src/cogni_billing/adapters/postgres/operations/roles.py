"""Database roles, by purpose."""

from __future__ import annotations

from attrs import asdict, field, frozen

from cogni_billing.domain.errors import InvalidInput, shown

_NAME_BYTES_MAX = 63


def quoted(name: str) -> str:
    """Quote *name* as an SQL identifier."""
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _role_name(given: str) -> str:
    # A colon or a percent sign would mark a parameter in the layers below.
    if (
        type(given) is not str
        or not 0 < len(given.encode()) <= _NAME_BYTES_MAX
        or any(character in given for character in "\0:%")
    ):
        raise InvalidInput("role", shown(given), "a role name of 1 to 63 bytes, no NUL, : or %")
    return given


# Not `optional`: the signature that it makes differs between versions of Python.
def _role_name_or_none(given: str | None) -> str | None:
    return None if given is None else _role_name(given)


@frozen(kw_only=True)
class Roles:
    """Names of the roles. A host with its own names gives them to `provision`.

    Args:
        migrator: Owns the schema and runs migrations. No superuser, no BYPASSRLS.
        user: Serves requests, under row-level security, one tenant at a time.
        service: Reverses purchases, and reads across tenants by policies of its own, for refunds,
            disputes, verification and reports.
        keeper: Owns the functions that read and write the tables. It cannot log in.
        spender: Like *user*, but it cannot mint: it neither confirms purchases nor grants. Created
            only if it is named here.
    """

    migrator: str = field(default="app_migrator", converter=_role_name)
    user: str = field(default="app_user", converter=_role_name)
    service: str = field(default="app_service", converter=_role_name)
    keeper: str = field(default="cogni_billing_keeper", converter=_role_name)
    spender: str | None = field(default=None, converter=_role_name_or_none)

    def __attrs_post_init__(self) -> None:
        if len(set(self.to_dict().values())) < len(self.to_dict()):
            raise InvalidInput("roles", "one name twice", "different roles")

    def to_dict(self) -> dict[str, str]:
        """Return the names by purpose."""
        return {purpose: name for purpose, name in asdict(self).items() if name is not None}

    def quoted(self, *purposes: str) -> tuple[str, ...]:
        """Return the roles of these purposes as SQL identifiers."""
        return tuple(quoted(self.to_dict()[purpose]) for purpose in purposes)

    def listed(self, *purposes: str) -> str:
        """Return the existing roles of these purposes as GRANT lists them."""
        return ", ".join(self.quoted(*(each for each in purposes if each in self.to_dict())))
