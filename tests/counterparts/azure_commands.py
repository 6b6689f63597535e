"""The `az` commands with which a customer grants access to keys, run on the counterpart.

They are strict: they refuse an option, a role's member or a data action that they do not know, a
role that was not defined, and a principal that is not in the tenant.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from counterparts.azure_control import Control
from counterparts.shell import CommandError, options, recorded

_GROUP: Final = "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/acme"
_VAULT: Final = f"{_GROUP}/providers/Microsoft.KeyVault/vaults/"
_ASSIGNEE: Final = {"--assignee-object-id", "--assignee-principal-type", "--role", "--scope"}
_KEY_PERMISSIONS: Final = {"get": "read", "wrapKey": "wrap", "unwrapKey": "unwrap"}
"""Permissions of access policies, with the data actions that they stand for."""


class AzCommands:
    """A customer who is signed in to a tenant.

    Args:
        azure: The counterpart that the commands act on.
        tenant: The tenant.
        vaults: URLs of its vaults and Managed HSMs, by name.
        clients: The applications whose object ids the customer may look up.
    """

    def __init__(
        self, azure: Control, tenant: str, vaults: Mapping[str, str], clients: tuple[str, ...]
    ) -> None:
        self._azure = azure
        self._tenant = tenant
        self._vaults = vaults
        self._clients = clients
        self._roles: dict[str, list[str]] = {}

    def run(self, text: str) -> None:
        """Runs a shell text.

        Raises:
            CommandError: The shell or a command refused the text.
        """
        commands: dict[tuple[str, ...], Callable[[dict[str, list[str]]], None]] = {
            ("ad", "sp", "create"): self._create_principal,
            ("role", "definition", "create"): self._define,
            ("role", "assignment", "create"): self._assign,
            ("keyvault", "role", "definition", "create"): self._define_in_hsm,
            ("keyvault", "role", "assignment", "create"): self._assign_in_hsm,
            ("keyvault", "set-policy"): self._set_policy,
        }
        for call in recorded("az", text, self._answers()):
            words = tuple(call)
            if "show" in words:
                continue
            name = next((each for each in commands if words[: len(each)] == each), None)
            if name is None:
                raise CommandError(f"az has no command {' '.join(words)}")
            commands[name](options(call[len(name) :]))

    def _answers(self) -> dict[str, str]:
        vaults = {
            f"keyvault show --name {name} --query id --output tsv": _VAULT + name
            for name in self._vaults
        }
        principals = {
            f"ad sp show --id {client} --query id --output tsv": object_
            for object_, client in self._objects().items()
        }
        return vaults | principals

    def _objects(self) -> dict[str, str]:
        return {
            self._azure.object_id(f"{self._tenant}/{client}"): client
            for client in self._clients
            if self._azure.is_in(self._tenant, client)
        }

    def _create_principal(self, given: dict[str, list[str]]) -> None:
        (client,) = _taken(given, {"--id"})["--id"]
        if self._azure.is_in(self._tenant, client):
            raise CommandError(f"the service principal of {client} exists")
        self._azure.consent(self._tenant, client)

    def _define(self, given: dict[str, list[str]]) -> None:
        role = _definition(given, {"--role-definition"})
        members = {"Name", "Description", "AssignableScopes", "Actions", "DataActions"}
        if role.keys() != members or role["Actions"] or role["AssignableScopes"] != [_GROUP]:
            raise CommandError(f"no such role can be defined: {role}")
        self._take(role["Name"], role["DataActions"])

    def _define_in_hsm(self, given: dict[str, list[str]]) -> None:
        role = _definition(given, {"--role-definition", "--hsm-name"})
        members = {"roleName", "description", *_LISTS}
        others = (role[name] for name in _LISTS if name != "dataActions")
        if role.keys() != members or any(others):
            raise CommandError(f"no such role can be defined: {role}")
        self._take(role["roleName"], role["dataActions"])

    def _take(self, name: str, actions: list[str]) -> None:
        if name in self._roles:
            raise CommandError(f"role {name} exists")
        self._roles[name] = actions

    def _assign(self, given: dict[str, list[str]]) -> None:
        _taken(given, _ASSIGNEE)
        (scope,) = given["--scope"]
        name, _, key = scope.removeprefix(_VAULT).partition("/keys/")
        if not scope.startswith(_VAULT) or not key:
            raise CommandError(f"there is no key at {scope}")
        self._give(given, name, key)

    def _assign_in_hsm(self, given: dict[str, list[str]]) -> None:
        _taken(given, _ASSIGNEE | {"--hsm-name"})
        (scope,), (name,) = given["--scope"], given["--hsm-name"]
        if not scope.startswith("/keys/"):
            raise CommandError(f"there is no key at {scope}")
        self._give(given, name, scope.removeprefix("/keys/"))

    def _give(self, given: dict[str, list[str]], vault: str, key: str) -> None:
        (role,) = given["--role"]
        if given["--assignee-principal-type"] != ["ServicePrincipal"] or role not in self._roles:
            raise CommandError(f"there is no role {role}, or no such assignee")
        who = self._principal(given["--assignee-object-id"])
        if self._roles[role]:
            url = f"{self._vaults[vault]}/keys/{key}"
            self._azure.allow(who, url, *(_full(each) for each in self._roles[role]))

    def _set_policy(self, given: dict[str, list[str]]) -> None:
        _taken(given, {"--name", "--object-id", "--key-permissions"})
        (vault,) = given["--name"]
        actions = [_KEY_PERMISSIONS[each] for each in given["--key-permissions"]]
        self._azure.allow(self._principal(given["--object-id"]), self._vaults[vault], *actions)

    def _principal(self, given: list[str]) -> str:
        client = self._objects().get(given[0]) if len(given) == 1 else None
        if client is None:
            raise CommandError(f"there is no service principal {given}")
        return f"{self._tenant}/{client}"


_LISTS: Final = ("actions", "notActions", "dataActions", "notDataActions")


def _full(action: str) -> str:
    """Returns a data action, which must be written in full, as roles name it."""
    if not action.startswith("Microsoft.KeyVault/"):
        raise CommandError(f"{action} is not a data action")
    return action


def _definition(given: dict[str, list[str]], wanted: set[str]) -> dict[str, Any]:
    (text,) = _taken(given, wanted)["--role-definition"]
    found: dict[str, Any] = json.loads(text)
    return found


def _taken(given: dict[str, list[str]], wanted: set[str]) -> dict[str, list[str]]:
    if given.keys() != wanted:
        raise CommandError(f"the options are {sorted(wanted)}, not {sorted(given)}")
    return given
