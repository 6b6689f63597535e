"""Origins: scheme, host and port of a server that Keyfold calls.

A provider whose key uris name a server reads an origin in a uri with `canonical_origin`, and one in
the settings with `configured_origin`. Both return the same form, so two origins are the same if
their texts are equal. Providers compare these texts before they send a credential (protocol C3).

Invariant: a text that can be read in two ways is not an origin: no user, path, query, escape or
letter outside ASCII. Plain http is refused unless the operator listed the origin with http. This
module must not know any provider.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Container, Iterable
from typing import Final

from keyfold_server.domain.errors import InvalidKeySpecError, SetupError

_ORIGIN: Final = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?",
    re.ASCII | re.IGNORECASE,
)
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_LAST_PORT: Final = 65_535


def canonical_origin(text: str) -> str | None:
    """Returns an origin in its one form, or None if the text is not an origin.

    The form has scheme and host in lower case, the shortest spelling of an IPv6 address, and no
    port where it is the scheme's default one: `https://vault.example` for
    `HTTPS://Vault.Example:443`.
    """
    found = _ORIGIN.fullmatch(text)
    if found is None:
        return None
    scheme, host = found["scheme"].lower(), found["host"].lower()
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            return None
    elif ".." in host:
        return None
    default = _DEFAULT_PORTS[scheme]
    port = int(found["port"] or default)
    if port > _LAST_PORT:
        return None
    return f"{scheme}://{host}" if port == default else f"{scheme}://{host}:{port}"


def configured_origin(text: str) -> str | None:
    """Returns an origin from the settings in its one form, or None if the text is not an origin.

    People write an origin in settings with or without a slash at its end.
    """
    return canonical_origin(text.removesuffix("/"))


def allowed_origins(listed: Iterable[str]) -> frozenset[str]:
    """Returns the origins of KEYFOLD_ALLOWED_ENDPOINTS, each in its one form.

    Raises:
        SetupError: One of them is not an origin.
    """
    origins = set()
    for text in listed:
        origin = configured_origin(text)
        if origin is None:
            raise SetupError(
                f"{text[:128]} in the allowed endpoints is not an origin such as https://host:8443"
            )
        origins.add(origin)
    return frozenset(origins)


def refuse_plain_http(origin: str, allowed: Container[str]) -> None:
    """Refuses an origin of plain http, unless the operator allowed it.

    Args:
        origin: An origin in its one form.
        allowed: The origins that `allowed_origins` returned.

    Raises:
        InvalidKeySpecError: The origin is plain http, and the operator did not list it.
    """
    if origin.startswith("http://") and origin not in allowed:
        raise InvalidKeySpecError(
            f"{origin} is plain http, over which tokens and keys travel in the clear; use "
            "https, or list the origin in KEYFOLD_ALLOWED_ENDPOINTS",
            field="key_spec.uri",
        )
