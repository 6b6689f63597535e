"""Role assignments: each permits a principal an action on a key, and nothing else is permitted.

An assignment gives one principal (`tenant/client`) one data action on one key of a vault, or on all
of them. Actions have a short name and Azure's, which differs between vaults and Managed HSMs.
"""

from __future__ import annotations

import threading
from typing import Final

_VAULT: Final = {
    "read": "Microsoft.KeyVault/vaults/keys/read",
    "create": "Microsoft.KeyVault/vaults/keys/create/action",
    "update": "Microsoft.KeyVault/vaults/keys/update/action",
    "rotate": "Microsoft.KeyVault/vaults/keys/rotate/action",
    "delete": "Microsoft.KeyVault/vaults/keys/delete",
    "recover": "Microsoft.KeyVault/vaults/keys/recover/action",
    "purge": "Microsoft.KeyVault/vaults/keys/purge/action",
    "wrap": "Microsoft.KeyVault/vaults/keys/wrap/action",
    "unwrap": "Microsoft.KeyVault/vaults/keys/unwrap/action",
    "encrypt": "Microsoft.KeyVault/vaults/keys/encrypt/action",
    "decrypt": "Microsoft.KeyVault/vaults/keys/decrypt/action",
}
_HSM: Final = {
    "read": "Microsoft.KeyVault/managedHsm/keys/read/action",
    "create": "Microsoft.KeyVault/managedHsm/keys/create",
    "update": "Microsoft.KeyVault/managedHsm/keys/write/action",
    "rotate": "Microsoft.KeyVault/managedHsm/keys/rotate/action",
    "delete": "Microsoft.KeyVault/managedHsm/keys/delete",
    "recover": "Microsoft.KeyVault/managedHsm/deletedKeys/recover/action",
    "purge": "Microsoft.KeyVault/managedHsm/deletedKeys/delete",
    "wrap": "Microsoft.KeyVault/managedHsm/keys/wrap/action",
    "unwrap": "Microsoft.KeyVault/managedHsm/keys/unwrap/action",
    "encrypt": "Microsoft.KeyVault/managedHsm/keys/encrypt/action",
    "decrypt": "Microsoft.KeyVault/managedHsm/keys/decrypt/action",
}


class Permissions:
    """The role assignments of one vault. Safe for many threads.

    Keys' names are compared without case, as Azure does.

    Args:
        hsm: Whether the vault is a Managed HSM.
    """

    def __init__(self, *, hsm: bool) -> None:
        self._actions = _HSM if hsm else _VAULT
        self._lock = threading.Lock()
        self._given: set[tuple[str, str, str]] = set()

    def actions(self, *names: str) -> tuple[str, ...]:
        """Returns the full names of data actions; without any named, all of them.

        Raises:
            KeyError: An action does not exist.
        """
        known = {**self._actions, **{full: full for full in self._actions.values()}}
        return tuple(known[name] for name in names or self._actions)

    def allow(self, principal: str, key: str, *actions: str) -> None:
        """Gives a principal actions on a key, `*` for every key; without any named, all of them."""
        with self._lock:
            self._given |= {(principal, key.lower(), name) for name in self.actions(*actions)}

    def deny(self, principal: str, key: str, *actions: str) -> None:
        """Takes actions on a key away again, as they were given; without any named, all of them.

        Raises:
            ValueError: No such action was given. Assignments add up, and an assignment on every key
                cannot be narrowed by taking an action on one key away.
        """
        with self._lock:
            named = {(principal, key.lower(), name) for name in self.actions(*actions)}
            taken = self._given & named
            if not taken:
                raise ValueError(f"{principal} has no such permission on {key} to take away")
            self._given -= taken

    def given(self, principal: str) -> set[tuple[str, str]]:
        """Returns a principal's assignments: keys with actions."""
        with self._lock:
            return {(key, action) for who, key, action in self._given if who == principal}

    def allowed(self, principal: str, key: str, action: str) -> bool:
        """Returns whether a principal has an action, by its full name, on a key."""
        with self._lock:
            asked = {(principal, key.lower(), action), (principal, "*", action)}
            return bool(asked & self._given)
