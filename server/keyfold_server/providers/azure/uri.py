"""Uris of Azure keys and names of principals, in every cloud of Azure.

Invariant: a uri that these functions accept names one key of one vault or Managed HSM, in Azure's
own domains or at an origin that the operator listed. They do not call Azure. The audience of the
tokens that Keyfold sends to an origin stands here or in the settings, and no answer of a host
changes it (protocol C3).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from keyfold_server.domain.errors import InvalidKeySpecError, SetupError
from keyfold_server.providers.azure.clouds import CLOUDS, Cloud
from keyfold_server.providers.shared.origins import (
    allowed_origins,
    canonical_origin,
    configured_origin,
)

_URI: Final = "key_spec.uri"
_PRINCIPAL: Final = "key_spec.auth_principal"
_EXAMPLE: Final = "https://VAULT.vault.azure.net/keys/NAME"

_KEY: Final = re.compile(
    r"(?P<origin>[Hh][Tt][Tt][Pp][Ss]?://[^/?#@\\%\s]+)/keys/(?P<name>[0-9A-Za-z-]{1,127})"
    r"(?:/(?P<version>[0-9a-f]{32}))?/?",
    re.ASCII,
)
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{1,22}[a-z0-9])", re.ASCII)
"""A vault's name: one label, so that it cannot leave its domain."""

_GUID: Final = r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
_TENANT_CLIENT: Final = re.compile(f"{_GUID}/{_GUID}", re.ASCII)

_MOST_KNOWN: Final = 4_096
"""Most uris whose parts are remembered."""


@dataclass(frozen=True, slots=True)
class Place:
    """A vault or Managed HSM.

    Attributes:
        origin: The scheme, host and port of its uris.
        audience: The audience of the tokens for it.
        cloud: The cloud whose Entra issues the tokens.
        hsm: Whether it is a Managed HSM.
    """

    origin: str
    audience: str
    cloud: Cloud
    hsm: bool

    @property
    def scope(self) -> str:
        """The scope to request a token for."""
        return f"{self.audience}/.default"


@dataclass(frozen=True, slots=True)
class KeyUri:
    """The parts of a key's uri.

    Attributes:
        place: The vault or Managed HSM.
        name: The key's name.
        version: The version that the uri pins, empty if the newest one wraps.
    """

    place: Place
    name: str
    version: str

    def __str__(self) -> str:
        """Returns the canonical form."""
        return self.of(self.version) if self.version else f"{self.place.origin}/keys/{self.name}"

    def of(self, version: str) -> str:
        """Returns the identifier of one of the key's versions."""
        return f"{self.place.origin}/keys/{self.name}/{version}"


class Places:
    """The places where keys may be: Azure's own domains, and origins that the operator listed."""

    def __init__(self, allowed: Iterable[str], audiences: Mapping[str, str]) -> None:
        """Takes the operator's list.

        Args:
            allowed: Origins outside of Azure's own domains, with http only if listed so.
            audiences: The audience of the tokens for each of these origins.

        Raises:
            SetupError: A text is not an origin, or an origin has an audience and is not listed.
        """
        self._listed = allowed_origins(allowed)
        self._audiences: dict[str, str] = {}
        for text, audience in audiences.items():
            origin = configured_origin(text)
            if origin is None or origin not in self._listed:
                raise SetupError(
                    f"there is an Azure audience for {text}, which is not in the allowed "
                    "endpoints; add it there too"
                )
            self._audiences[origin] = audience.rstrip("/")
        self._known: dict[str, KeyUri] = {}

    def usual(self, authority: str) -> Place:
        """Returns a place for which to try a login: one that the settings list, or any vault.

        Args:
            authority: Microsoft Entra's url in the settings or the environment, or empty.
        """
        for origin in self._audiences:
            return self._place(origin)
        cloud = next((one for one in CLOUDS if one.authority in authority), CLOUDS[0])
        return self._place(f"https://keyfold.{cloud.vaults}")

    def uri(self, uri: str) -> KeyUri:
        """Parses the uri of a key.

        Raises:
            InvalidKeySpecError: The text is not the uri of a key, or its host is neither Azure's
                nor listed.
        """
        known = self._known.get(uri)
        if known is None:
            known = self._parsed(uri)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[uri] = known
        return known

    def _parsed(self, uri: str) -> KeyUri:
        origin, name, version = _parts(uri)
        return KeyUri(self._place(origin), name, version)

    def _place(self, origin: str) -> Place:
        scheme, _, host = origin.partition("://")
        label, _, domain = host.partition(".")
        for cloud in CLOUDS:
            if domain in (cloud.vaults, cloud.hsms) and _LABEL.fullmatch(label):
                if scheme != "https":
                    raise InvalidKeySpecError(
                        "the uri of a key in Azure begins with https://", field=_URI
                    )
                return Place(origin, f"https://{domain}", cloud, domain == cloud.hsms)
        if origin not in self._listed:
            raise InvalidKeySpecError(
                f"{origin[:128]} is not a vault or Managed HSM of Azure, and not in the allowed "
                f"endpoints; use a uri such as {_EXAMPLE}",
                field=_URI,
            )
        audience = self._audiences.get(origin)
        if audience is None:
            raise InvalidKeySpecError(
                f"{origin} is an allowed endpoint, but the server does not know for which audience "
                "its tokens are; add it to [providers.azure.audiences]",
                field=_URI,
            )
        return _with_audience(origin, audience)


def origin_of(uri: str) -> str:
    """Returns the origin of a key's uri, without a look at whether keys may be there.

    Raises:
        InvalidKeySpecError: The text is not the uri of a key.
    """
    return _parts(uri)[0]


def version_of(uri: str) -> str:
    """Returns the version that a key's uri pins, or an empty string; so does an empty uri.

    Raises:
        InvalidKeySpecError: The text is not the uri of a key.
    """
    return _parts(uri)[2] if uri else ""


def family_of(uri: str) -> str:
    """Returns the uri of a key without its version, and with its name in small letters.

    Azure compares the names of keys without case, so uris that differ in it name one key.

    Raises:
        InvalidKeySpecError: The text is not the uri of a key.
    """
    origin, name, _ = _parts(uri)
    return f"{origin}/keys/{name.lower()}"


def _parts(uri: str) -> tuple[str, str, str]:
    """Returns origin, name and version of a key's uri."""
    found = _KEY.fullmatch(uri)
    origin = None if found is None else canonical_origin(found["origin"])
    if found is None or origin is None:
        raise InvalidKeySpecError(
            f"the uri must be that of a key, such as {_EXAMPLE}, with or without a version of 32 "
            "hexadecimal digits",
            field=_URI,
        )
    return origin, found["name"], found["version"] or ""


def principal(text: str) -> str:
    """Returns a principal, `TENANT/CLIENT`, in canonical form.

    Raises:
        InvalidKeySpecError: The text is not a principal.
    """
    lowered = text.lower()
    if _TENANT_CLIENT.fullmatch(lowered) is None:
        raise InvalidKeySpecError(
            "auth_principal must be TENANT/CLIENT, the ids of the customer's tenant and of the "
            "application there, both GUIDs; leave it out to use the server's own identity",
            field=_PRINCIPAL,
        )
    return lowered


def _with_audience(origin: str, audience: str) -> Place:
    for cloud in CLOUDS:
        for domain in (cloud.vaults, cloud.hsms):
            if audience == f"https://{domain}":
                return Place(origin, audience, cloud, domain == cloud.hsms)
    # An audience of a private cloud. Like Azure's own ones, it says if it is a Managed HSM's.
    return Place(origin, audience, CLOUDS[0], "managedhsm" in audience)
