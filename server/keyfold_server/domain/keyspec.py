"""Key specs: which root key a region uses, and as which principal Keyfold calls it.

These are plain values. This module has the rules that hold for every provider; each provider
checks its own uris (`provider.KeyProvider.canonical`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from keyfold_server.domain.errors import (
    InvalidKeySpecError,
    InvalidNameError,
    InvalidPolicyError,
)

PLATFORM: Final = "PLATFORM"
"""The provider type that stands for the vendor's own key of a region."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

MAX_CACHE_TTL: Final = 15 * 60.0
"""Seconds of the longest `cache_ttl` of a policy, and of the server's setting."""

MAX_OUTAGE_GRACE: Final = 24 * 60 * 60.0
"""Seconds of the longest `outage_grace` of a policy, and of the server's setting."""

MAX_URI: Final = 1_024
"""Most characters of a key uri or principal. No provider documents one of half this length."""

MAX_OPTIONS: Final = 16
"""Most options of one key spec."""


def check_name(value: str, field_path: str) -> str:
    """Returns a cluster's, region's or organization's name, or refuses it.

    Args:
        value: The name as the caller sent it.
        field_path: The path of the request field, for the error.

    Raises:
        InvalidNameError: The value is not 1 to 128 characters of A-Z a-z 0-9 . _ - beginning
            with a letter or digit.
    """
    if _NAME.fullmatch(value) is None:
        what = "is empty" if not value else "has characters or a length that names cannot have"
        raise InvalidNameError(
            f"{field_path} {what}; use 1 to 128 of A-Z a-z 0-9 . _ - "
            "beginning with a letter or digit",
            field=field_path,
        )
    return value


@dataclass(frozen=True, slots=True)
class KeySpec:
    """Names a root key as an operator writes it.

    Attributes:
        type: The provider's type, such as `AWS_KMS`, or `PLATFORM`.
        uri: The provider's own name of the key; empty for `PLATFORM`.
        principal: The principal as which Keyfold calls the provider; empty: the server's own
            identity.
        options: Provider options, sorted by key.
    """

    type: str
    uri: str = ""
    principal: str = ""
    options: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def of(type_: str, uri: str, principal: str, options: Mapping[str, str]) -> KeySpec:
        """Makes a key spec from the values of a request.

        Raises:
            InvalidKeySpecError: It is empty, has no type, or a part is too long.
        """
        if not (type_ or uri or principal or options):
            raise InvalidKeySpecError(
                "the key spec is empty; give at least type and uri", field="key_spec"
            )
        if not type_:
            raise InvalidKeySpecError(
                "the key spec has no type; give one such as LOCAL or AWS_KMS", field="key_spec.type"
            )
        if type_ == PLATFORM and (uri or principal or options):
            raise InvalidKeySpecError(
                "PLATFORM takes no uri, principal or options, since the server's settings name "
                "the key; leave them out",
                field="key_spec",
            )
        for name, value in (("type", type_), ("uri", uri), ("auth_principal", principal)):
            if len(value) > MAX_URI or not value.isprintable():
                raise InvalidKeySpecError(
                    f"{name} must be at most {MAX_URI} printable characters",
                    field=f"key_spec.{name}",
                )
        if len(options) > MAX_OPTIONS or not all(
            len(k) + len(v) <= MAX_URI and (k + v).isprintable() for k, v in options.items()
        ):
            raise InvalidKeySpecError(
                f"give at most {MAX_OPTIONS} options, each of at most {MAX_URI} printable "
                "characters",
                field="key_spec.options",
            )
        return KeySpec(type_, uri, principal, tuple(sorted(options.items())))

    def check_uri(self) -> None:
        """Refuses a spec without a uri, unless it is PLATFORM.

        `of` does not check this, because a caller that misspelt PLATFORM must hear about the type.

        Raises:
            InvalidKeySpecError: The spec has no uri.
        """
        if not self.uri and self.type != PLATFORM:
            raise InvalidKeySpecError(
                "the key spec has no uri; give the type, and the provider's own name of the key",
                field="key_spec.uri",
            )


@dataclass(frozen=True, slots=True)
class RootKey:
    """A root key as Keyfold calls it: a key spec with `PLATFORM` resolved and a canonical uri.

    The store keeps it with each wrapped KEK, so that a changed setting makes no KEK unusable.

    Attributes:
        type: The provider's type, never `PLATFORM`.
        uri: The provider's own name of the key, in canonical form.
        principal: The principal as which Keyfold calls the provider; empty: the server's own
            identity.
        options: Provider options, sorted by key.
        external_id: The external id that Keyfold issued for the customer, for providers that use
            one (protocol C2); empty otherwise.
    """

    type: str
    uri: str
    principal: str = ""
    options: tuple[tuple[str, str], ...] = ()
    external_id: str = ""


@dataclass(frozen=True, slots=True)
class RegionPolicy:
    """The limits within which a region's keys are used without calling the KMS.

    Attributes:
        cache_ttl: Seconds that one proof lasts, 0 to 900. At 0 every call calls the KMS. None
            takes the server's setting.
        outage_grace: Seconds that keys serve beyond that while the KMS cannot be asked, 0 to
            86,400. None takes the server's setting.
        auto_rotate: Whether Keyfold re-wraps the region's KEKs when the root key has a newer
            version.
    """

    cache_ttl: float | None = None
    outage_grace: float | None = None
    auto_rotate: bool = False

    def __post_init__(self) -> None:
        """Checks the durations.

        Raises:
            InvalidPolicyError: A duration is out of bounds.
        """
        for name, value, most in (
            ("cache_ttl", self.cache_ttl, MAX_CACHE_TTL),
            ("outage_grace", self.outage_grace, MAX_OUTAGE_GRACE),
        ):
            if value is not None and not 0 <= value <= most:
                raise InvalidPolicyError(
                    f"{name} must lie between 0 and {most:.0f} seconds", field=f"policy.{name}"
                )


@dataclass(frozen=True, slots=True)
class RegionSpec:
    """One region of a request.

    Attributes:
        region: The vendor's own name of the region.
        key_spec: The root key, or None if the request leaves it out.
        policy: The policy, or None if the request leaves it out.
        replica_of: The region whose multi-Region key has a replica in this one, in place of a
            key spec; empty otherwise. Once Keyfold has worked out that replica, the key spec is
            the replica's.
        geo: The geo whose regions the key and its replicas are for; empty otherwise.
        key_link: The key link of the cluster's organization whose key the region takes, in place of
            a key spec; empty otherwise. Once Keyfold has looked it up, the key spec is the link's.
    """

    region: str
    key_spec: KeySpec | None = None
    policy: RegionPolicy | None = None
    replica_of: str = ""
    geo: str = ""
    key_link: str = ""
