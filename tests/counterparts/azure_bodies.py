"""JSON bodies of the Key Vault keys API: reading requests, writing keys and results."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from counterparts.azure_errors import AzureError
from counterparts.azure_keys import Deleted, Version
from counterparts.azure_material import Sealed, bad_parameter
from counterparts.azure_site import Request

_PAGE: Final = 25
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*={0,2}")
_OPERATIONS: Final = frozenset(
    {"encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey", "import", "export"}
)


def body(request: Request) -> dict[str, Any]:
    """Returns a request's body, which must be a JSON object; an empty one is `{}`."""
    try:
        found = json.loads(request.body or b"{}")
    except ValueError:
        raise bad_parameter("the request's body is not JSON") from None
    if not isinstance(found, dict):
        raise bad_parameter("the request's body is not a JSON object")
    return found


def attributes(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the attributes that a create or update request sets on a key version."""
    wanted: dict[str, Any] = {}
    found = _typed(given, "attributes", dict) or {}
    for name, kind in (("enabled", bool), ("nbf", int), ("exp", int)):
        if (value := _typed(found, name, kind)) is not None:
            wanted[name] = value
    if (operations := _typed(given, "key_ops", list)) is not None:
        if not _OPERATIONS.issuperset(operations):
            raise bad_parameter(f"key_ops: {operations} names no such operation")
        wanted["key_ops"] = tuple(operations)
    if (tags := _typed(given, "tags", dict)) is not None:
        wanted["tags"] = tags
    return wanted


def kind(given: Mapping[str, Any]) -> tuple[str, int | None]:
    """Returns the type and the size of the key to create."""
    if (kty := _typed(given, "kty", str)) is None:
        raise bad_parameter("Property 'kty' is required.")
    return kty, _typed(given, "key_size", int)


def operation(given: Mapping[str, Any]) -> tuple[str, Sealed]:
    """Returns the algorithm and the value of a cryptographic request."""
    if (algorithm := _typed(given, "alg", str)) is None:
        raise bad_parameter("Property 'alg' is required.")
    value = _bytes(given, "value")
    if value is None:
        raise AzureError("BadValue", property="value")
    iv, tag, aad = (_bytes(given, name) for name in ("iv", "tag", "aad"))
    return algorithm, Sealed(value, iv, tag, aad)


def result(version: Version, sealed: Sealed, origin: str) -> dict[str, str]:
    """Returns the answer to a cryptographic request."""
    found = {"value": sealed.value, "iv": sealed.iv, "tag": sealed.tag, "aad": sealed.aad}
    answer = {name: _text(value) for name, value in found.items() if value is not None}
    return {"kid": kid(version, origin), **answer}


def kid(version: Version, origin: str) -> str:
    """Returns a version's identifier: its URL, with the host that the client named."""
    return f"{origin}/keys/{version.name}/{version.id}"


def item(version: Version, origin: str) -> dict[str, Any]:
    """Returns a version's entry in a list."""
    times = {"nbf": version.nbf, "exp": version.exp}
    return {
        "kid": kid(version, origin),
        "attributes": {
            "enabled": version.enabled,
            **{name: value for name, value in times.items() if value is not None},
            "created": version.created,
            "updated": version.updated,
            "recoveryLevel": "Recoverable+Purgeable",
            "recoverableDays": 90,
            "exportable": False,
        },
        "tags": dict(version.tags),
    }


def bundle(version: Version, origin: str) -> dict[str, Any]:
    """Returns a key bundle: the public part, the attributes, the tags."""
    described = item(version, origin)
    numbers = version.material.public.items()
    key = {
        "kid": described.pop("kid"),
        "kty": version.kty,
        "key_ops": list(version.key_ops),
        **{name: _text(value.to_bytes((value.bit_length() + 7) // 8)) for name, value in numbers},
    }
    return {"key": key, **described}


def deleted(key: Deleted, origin: str) -> dict[str, Any]:
    """Returns the bundle of a key in soft deletion."""
    newest = key.versions[-1]
    return {
        **bundle(newest, origin),
        "recoveryId": f"{origin}/deletedkeys/{newest.name}",
        "deletedDate": key.deleted,
        "scheduledPurgeDate": key.purge,
    }


def page(versions: Iterable[Version], request: Request) -> dict[str, Any]:
    """Returns one page of a list, with the link to the next."""
    items = [item(version, request.origin) for version in versions]
    size, start = request.query.get("maxresults", str(_PAGE)), request.query.get("$skiptoken", "0")
    if not (size.isdecimal() and start.isdecimal() and 1 <= int(size) <= _PAGE):
        raise bad_parameter(f"maxresults is a number from 1 to {_PAGE}")
    end = int(start) + int(size)
    link = None
    if end < len(items):
        version = request.query["api-version"]
        path = f"{request.origin}/{'/'.join(request.path)}"
        link = f"{path}?api-version={version}&$skiptoken={end}&maxresults={size}"
    return {"value": items[int(start) : end], "nextLink": link}


def _typed(given: Mapping[str, Any], name: str, wanted: type) -> Any:
    value = given.get(name)
    # A bool is an int to Python, but not to JSON.
    if value is None or (isinstance(value, wanted) and isinstance(value, bool) == (wanted is bool)):
        return value
    raise bad_parameter(f"Property '{name}' has the wrong type.")


def _bytes(given: Mapping[str, Any], name: str) -> bytes | None:
    if (text := given.get(name)) is None:
        return None
    if not isinstance(text, str) or not _BASE64URL.fullmatch(text):
        raise AzureError("BadValue", property=name)
    bare = text.rstrip("=")
    try:
        return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
    except binascii.Error:
        raise AzureError("BadValue", property=name) from None


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()
