"""What a server knows of the names of root keys: whose uri is whose, and what PLATFORM means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from keyfold_server.domain.errors import UnknownProviderError
from keyfold_server.domain.keyspec import RootKey


def _no_type(uri: str) -> str:
    del uri
    raise UnknownProviderError("no provider is known by such a key uri", field="key_spec.uri")


@dataclass(frozen=True, slots=True)
class KeyNames:
    """What the providers and the settings of a server say of the names of keys.

    Attributes:
        platform: Returns the vendor's own key in a region, or None.
        platform_keys: All of the vendor's own keys.
        type_of: Returns the type of the provider that a key uri belongs to. Raises
            UnknownProviderError: It belongs to no provider, or several could have it.
    """

    platform: Callable[[str], RootKey | None] = lambda _: None
    platform_keys: tuple[RootKey, ...] = ()
    type_of: Callable[[str], str] = _no_type
