"""Holders: the AWS accounts, Google projects, vaults and origins that hold root keys (protocol C9).

Where customers let one principal of the vendor's use their keys, that principal opens the keys of
all of them, whoever asks. So a holder belongs to the first organization that proves a key in it
under such a principal, and another organization may name no key there, unless an administrator
allows it. An organization has its holders as a part of itself, so the log vouches for them.

Whoever belongs to no organization has no holders, and may name no key in those of an organization.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from keyfold_server.domain.errors import (
    InvalidOrganizationError,
    KeyHeldByAnotherError,
    TooManyHoldersError,
)
from keyfold_server.domain.keyspec import MAX_URI, PLATFORM

MAX_HOLDERS: Final = 1_000
"""Most holders of one organization."""

PATH: Final = "organization.holders"
"""The field of a request that has holders, for errors."""


class Holder(NamedTuple):
    """What holds root keys, and belongs to one customer.

    Attributes:
        type: The provider's type.
        name: The provider's name of it in canonical form (`provider.KeyProvider.account`).
    """

    type: str
    name: str

    def __str__(self) -> str:
        """Returns the text that answers have: `TYPE:NAME`."""
        return f"{self.type}:{self.name}"

    @classmethod
    def parsed(cls, text: str) -> Holder:
        """Returns the holder of a text in a request; the name need not be in canonical form.

        Raises:
            InvalidOrganizationError: The text has no type, or no name, or is too long.
        """
        type_, _, name = text[: MAX_URI + 1].partition(":")
        valid = type_ not in ("", PLATFORM) and name and len(text) <= MAX_URI
        if not valid or not text.isprintable():
            raise InvalidOrganizationError(
                "a holder is written TYPE:NAME, such as AWS_KMS:111122223333, with the type of a "
                "provider; PLATFORM keys have none",
                field=PATH,
            )
        return cls(type_, name)


@dataclass(frozen=True, slots=True)
class Claim:
    """The holders in which a change names keys under principals that several customers share.

    Attributes:
        organization: The organization for which it does, or None.
        holders: The holders, sorted.
    """

    organization: str | None
    holders: tuple[Holder, ...]


def check_holders(count: int) -> None:
    """Refuses more holders than an organization may have.

    Raises:
        InvalidOrganizationError: There are more.
    """
    if count > MAX_HOLDERS:
        raise InvalidOrganizationError(f"give at most {MAX_HOLDERS:,} holders", field=PATH)


def refuse_held(holders: Iterable[Holder], elsewhere: Collection[Holder]) -> None:
    """Refuses keys in holders that another organization has.

    The message does not say whose they are, and comes before any call to a KMS, so that it does not
    say either whether the keys exist.

    Raises:
        KeyHeldByAnotherError: Another organization has one of them.
    """
    held = [str(holder) for holder in holders if holder in elsewhere]
    if held:
        raise KeyHeldByAnotherError(
            f"the key is in {', '.join(held[:3])}, which another organization uses; check the "
            "key's uri and the organization, or have an administrator allow it: "
            "UpdateOrganization with holders",
            field="key_spec.uri",
        )


def with_claimed(
    held: tuple[Holder, ...], wanted: Iterable[Holder], elsewhere: Collection[Holder]
) -> tuple[Holder, ...]:
    """Returns the holders of an organization once it has proven keys in some.

    Args:
        held: Those that it has, sorted.
        wanted: Those in which it names keys.
        elsewhere: Those of `wanted` that another organization has.

    Raises:
        KeyHeldByAnotherError: Another organization has one of them, and this one does not.
        TooManyHoldersError: The organization would have too many.
    """
    new = {holder for holder in wanted if holder not in held}
    if not new:
        return held
    refuse_held(sorted(new), elsewhere)
    if len(held) + len(new) > MAX_HOLDERS:
        raise TooManyHoldersError(
            f"an organization may have {MAX_HOLDERS:,} holders, and this one has {len(held):,}; "
            "have an administrator release some: UpdateOrganization with holders",
            field="organization",
        )
    return tuple(sorted({*held, *new}))
