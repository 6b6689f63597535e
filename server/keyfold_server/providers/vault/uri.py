"""Uris of transit keys, origins and principals of Vault and OpenBao.

    uri        https://HOST[:PORT]/v1/[NAMESPACE/]MOUNT/keys/NAME, as the server itself serves it
    principal  auth/MOUNT/role/ROLE

Invariant: one key has one uri. Nothing in it can be read in two ways or leave its path: no
escapes, no dots as segments, no user, query or fragment. The server itself finds out where the
namespace ends and the mount begins. This module must not know which origins the settings have.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Final

from keyfold_server.domain.errors import InvalidKeySpecError
from keyfold_server.providers.shared.origins import canonical_origin

_URI: Final = "key_spec.uri"
_EXAMPLE: Final = "https://vault.example.com:8200/v1/transit/keys/NAME"

_PARTS: Final = re.compile(r"(?P<origin>[A-Za-z]+://[^/]*)/v1/(?P<mount>.+)/keys/(?P<name>[^/]+)")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*", re.ASCII)
_NAME: Final = re.compile(r"\w(?:[\w.-]*\w)?", re.ASCII)
"""The server's own rule for names of keys."""

_PRINCIPAL: Final = re.compile(r"auth/(?P<mount>.+)/role/(?P<role>[^/]+)")


@dataclass(frozen=True, slots=True)
class KeyUri:
    """The parts of a key's uri.

    Attributes:
        origin: Scheme, host and port of the server, in canonical form.
        mount: The secrets engine's path, after the namespaces.
        name: The key's name.
    """

    origin: str
    mount: str
    name: str

    @property
    def uri(self) -> str:
        """The canonical uri."""
        return f"{self.origin}/v1/{self.mount}/keys/{self.name}"

    def path(self, operation: str) -> str:
        """Returns the path of an operation as policies name it: encrypt, decrypt or keys."""
        return f"{self.mount}/{operation}/{self.name}"


@functools.lru_cache(maxsize=4_096)
def key_uri(uri: str) -> KeyUri:
    """Parses the uri of a key.

    Raises:
        InvalidKeySpecError: The text is not the uri of a transit key.
    """
    found = _PARTS.fullmatch(uri)
    origin = None if found is None else canonical_origin(found["origin"])
    if found is None or origin is None:
        raise InvalidKeySpecError(
            f"the uri must be a transit key's, such as {_EXAMPLE}, with the namespace, if any, "
            "after /v1/",
            field=_URI,
        )
    if not all(_SEGMENT.fullmatch(each) for each in found["mount"].split("/")):
        raise InvalidKeySpecError(
            "the uri's namespace and mount may have letters, digits and . _ - only, separated by "
            "single slashes; write them without escapes",
            field=_URI,
        )
    if _NAME.fullmatch(found["name"]) is None:
        raise InvalidKeySpecError(
            "the uri must end in a transit key's name: letters, digits, _ and, between them, . "
            "and -",
            field=_URI,
        )
    return KeyUri(origin, found["mount"], found["name"])


def is_path(text: str) -> bool:
    """Says whether a text is a path of mounts or namespaces."""
    return all(_SEGMENT.fullmatch(each) for each in text.split("/"))


def principal(mount: str, role: str) -> str:
    """Returns the principal of a role of an auth method."""
    return f"auth/{mount}/role/{role}"


def check_principal(text: str, own: str | None, origin: str) -> None:
    """Refuses a principal other than the one that Keyfold logs in as at an origin.

    Args:
        text: The principal of the key spec.
        own: The principal of the origin's settings, or None if they have a token.
        origin: The origin, for the message.

    Raises:
        InvalidKeySpecError: The principal is another one, or does not have the form of one.
    """
    if text == own:
        return
    if _PRINCIPAL.fullmatch(text) is None:
        told = "auth_principal must be written auth/MOUNT/role/ROLE"
    elif own is None:
        told = f"Keyfold uses {origin} with a token, which has no role"
    else:
        told = f"Keyfold uses {origin} as {own}"
    raise InvalidKeySpecError(
        f"{told}; leave auth_principal out to use the origin's own",
        field="key_spec.auth_principal",
    )
