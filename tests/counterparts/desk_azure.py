"""The `az` commands with which a customer makes keys and grants access, run on the counterpart.

They are strict: they refuse a command, an option or a role that they do not know. A vault's address
is the counterpart's own, whatever the vault's name is.
"""

from __future__ import annotations

from typing import Any, Final

from counterparts.azure_control import Control
from counterparts.desk import Typed, options
from counterparts.shell import CommandError

_VAULTS: Final = (
    "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/acme/providers/"
    "Microsoft.KeyVault/vaults/"
)
_ROLES: Final = {"Key Vault Crypto User": ("read", "wrap", "unwrap")}
"""Data actions of Azure's own roles, as far as Keyfold calls them."""


class AzDesk:
    """A customer who is signed in to a tenant.

    Args:
        azure: The counterpart that the commands act on.
        tenant: The tenant.
        vault: The URL of the vault at the counterpart.
        shown: The URL by which the world knows it.
    """

    def __init__(self, azure: Control, tenant: str, vault: str, shown: str) -> None:
        self._azure = azure
        self._tenant = tenant
        self._vault = vault
        self._shown = shown

    def __call__(self, typed: Typed) -> str:
        """Runs a command; see `Command`."""
        match typed.words:
            case ["keyvault", "key", ("create" | "rotate") as how, *rest]:
                given = options(rest)
                if how == "create":
                    self._azure.create_key(given["--name"], self._vault, given.pop("--kty"))
                else:
                    self._azure.new_version(self._key(given))
                if given.get("--query") != "key.kid":
                    return ""
                return self._azure.versions(self._key(given))[-1].replace(self._vault, self._shown)
            case ["keyvault", "key", "set-attributes", *rest]:
                given = options(rest)
                change = {"true": self._azure.enable, "false": self._azure.disable}
                change[given["--enabled"]](self._key(given))
            case ["keyvault", "show", "--name", name, "--query", "id", "--output", "tsv"]:
                return _VAULTS + name
            case ["role", "assignment", "create", *rest]:
                given = options(rest)
                _, key = given["--scope"].removeprefix(_VAULTS).split("/keys/")
                principal = f"{self._tenant}/{given['--assignee']}"
                actions = _ROLES[given["--role"]]
                self._azure.allow(principal, f"{self._vault}/keys/{key}", *actions)
            case _:
                raise CommandError(f"there is no command {' '.join(typed.words)}")
        return ""

    def _key(self, given: dict[str, Any]) -> str:
        version = f"/{given['--version']}" if "--version" in given else ""
        return f"{self._vault}/keys/{given['--name']}{version}"
