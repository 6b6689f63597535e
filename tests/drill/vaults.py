"""The customers' KMSs: an OpenBao in each region, with that region's root keys."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Final

from counterparts.openbao import OpenBao
from drill.wan import Wan, address

_PORT: Final = 8200
_MOUNT: Final = "transit"
_ROLE: Final = "keyfold"
_KEYS: Final = ("a", "b")


def origin(region: int) -> str:
    """Returns the origin of a region's OpenBao."""
    return f"http://{address(region)}:{_PORT}"


def uris(region: int) -> tuple[str, ...]:
    """Returns the URIs of a region's root keys."""
    return tuple(f"{origin(region)}/v1/{_MOUNT}/keys/{name}" for name in _KEYS)


class Vault:
    """A region's OpenBao, with its root keys and a role that may use them.

    Attributes:
        server: The server.
    """

    def __init__(self, wan: Wan, region: int) -> None:
        """Starts it within its region."""
        self._region = region
        inside = functools.partial(wan.inside, region)
        self.server = OpenBao(address=f"{address(region)}:{_PORT}", inside=inside)
        self.server.mount(_MOUNT)
        rules = {"auth/token/lookup-self": ["read"]}
        for name in _KEYS:
            self.server.create_key(_MOUNT, name)
            rules |= {f"{_MOUNT}/{each}/{name}": ["update"] for each in ("encrypt", "decrypt")}
            rules[f"{_MOUNT}/keys/{name}"] = ["read"]
        self.server.write_policy(_ROLE, rules)
        self.server.enable_auth("approle", "approle")

    def login(self, folder: Path) -> str:
        """Makes a login of a server's own; returns the section of the server's settings for it."""
        role_id, secret_id = self.server.create_app_role(
            "approle", _ROLE, token_policies=[_ROLE], token_ttl="1h"
        )
        credential = folder / f"secret-id-{self._region}"
        credential.touch(0o600)
        credential.write_text(secret_id + "\n")
        section = {
            "auth": "approle",
            "role": _ROLE,
            "role_id": role_id,
            "credential": str(credential),
        }
        lines = [f"{name} = {json.dumps(value)}" for name, value in section.items()]
        return "\n".join([f'[vault."{origin(self._region)}"]', *lines, ""])
