"""The paths of the Key Vault keys REST API that the counterpart serves, in one table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from counterparts.azure_site import Request

_KEY: Final = "keys/(?P<name>[^/]+)"
_DELETED: Final = "deletedkeys/(?P<name>[^/]+)"
# The version is optional, and .NET's client writes wrapKey where the reference has wrapkey.
_VERSION: Final = "(?:/(?P<version>[^/]+))?"
_ROUTES: Final = tuple(
    (method, re.compile(path, re.IGNORECASE), operation, action, key_op)
    for method, path, operation, action, key_op in (
        ("GET", "keys", "list", "read", ""),
        ("POST", f"{_KEY}/create", "create", "create", ""),
        ("POST", f"{_KEY}/rotate", "rotate", "rotate", ""),
        ("GET", f"{_KEY}/versions", "versions", "read", ""),
        ("POST", f"{_KEY}{_VERSION}/wrapkey", "wrapkey", "wrap", "wrapKey"),
        ("POST", f"{_KEY}{_VERSION}/unwrapkey", "unwrapkey", "unwrap", "unwrapKey"),
        ("POST", f"{_KEY}{_VERSION}/encrypt", "encrypt", "encrypt", "encrypt"),
        ("POST", f"{_KEY}{_VERSION}/decrypt", "decrypt", "decrypt", "decrypt"),
        ("GET", f"{_KEY}(?!/rotationpolicy$){_VERSION}", "get", "read", ""),
        ("PATCH", f"{_KEY}{_VERSION}", "update", "update", ""),
        ("DELETE", _KEY, "delete", "delete", ""),
        ("GET", _DELETED, "get_deleted", "read", ""),
        ("POST", f"{_DELETED}/recover", "recover", "recover", ""),
        ("DELETE", _DELETED, "purge", "purge", ""),
    )
)


@dataclass(frozen=True)
class Call:
    """The call that a request makes, read from its method and path alone.

    Attributes:
        operation: Name in the request log and in faults.
        action: Short name of the permission that it needs.
        key_op: Name in `key_ops`; empty if it is not a cryptographic operation.
        name: The key's name, `*` for all keys.
        version: The version, or "" for the newest.
    """

    operation: str
    action: str
    key_op: str
    name: str
    version: str

    @classmethod
    def of(cls, request: Request) -> Self | None:
        """Reads a request; returns None if this counterpart does not serve it."""
        path = "/".join(request.path)
        for method, pattern, operation, action, key_op in _ROUTES:
            if method == request.method and (match := pattern.fullmatch(path)):
                found = match.groupdict()
                name = found.get("name") or "*"
                return cls(operation, action, key_op, name, found.get("version") or "")
        return None
