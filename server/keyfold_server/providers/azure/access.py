"""What lets Keyfold use one key of a vault or Managed HSM, and no more: roles and commands.

Invariant: the data actions here are those that the module `calls` needs, and the scope is the key.
What a uri does not say is left open as `<…>`, which is not a name in Azure, and a notice says so.
These functions do not call Azure. This module must not know tokens.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from keyfold_server.domain.binding import Binding
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import AccessPolicy, AccessWanted, Statement
from keyfold_server.providers.azure.clouds import Cloud
from keyfold_server.providers.azure.errors import action
from keyfold_server.providers.azure.uri import KeyUri

_OPERATIONS: Final = {False: ("get", "wrapkey", "unwrapkey"), True: ("get", "encrypt", "decrypt")}
"""The operations that the module `calls` needs, by whether the key is a Managed HSM's."""

_CLI_CLOUDS: Final = {
    "vault.azure.cn": "AzureChinaCloud",
    "vault.usgovcloudapi.net": "AzureUSGovernment",
}
"""The az command's names of the clouds other than its default one, by the domain of vaults."""


@dataclass(frozen=True, slots=True)
class _Site:
    """Where a key is and who calls it, as the az command writes them.

    Attributes:
        vault: The name of the vault or Managed HSM.
        hsm: Whether it is a Managed HSM.
        key: The key's name.
        tenant: The customer's tenant, empty if Keyfold calls as itself.
        client: The client id of the application, empty if the environment does not name it.
        also: The client ids of further applications that use the key.
    """

    vault: str
    hsm: bool
    key: str
    tenant: str
    client: str
    also: tuple[str, ...] = ()

    @property
    def actions(self) -> tuple[str, ...]:
        """The data actions that a role must have."""
        return tuple(action(each, hsm=self.hsm) for each in _OPERATIONS[self.hsm])

    @property
    def role(self) -> str:
        """The role's name. It must be unique in its tenant, and names of vaults are."""
        return f"Keyfold key user {self.vault}"

    @property
    def assignee(self) -> str:
        """The object id of the caller, as an argument."""
        if not self.client:
            return shlex.quote("<object id of the managed identity of Keyfold>")
        return f'"$(az ad sp show --id {shlex.quote(self.client)} --query id --output tsv)"'

    @property
    def id_of_vault(self) -> str:
        """The command that prints the vault's resource id."""
        return f"az keyvault show --name {shlex.quote(self.vault)} --query id --output tsv"


def access_policy(key: RootKey, uri: KeyUri, own: str, wanted: AccessWanted) -> AccessPolicy:
    """Returns what to attach; see the port.

    Args:
        key: The root key, in canonical form.
        uri: The parts of the key's uri.
        own: The client id of the server's own identity, empty if it is not known.
        wanted: Whom the policy is for.
    """
    tenant, _, client = key.principal.partition("/")
    also = wanted.seat.also if wanted.seat is not None else ()
    site = _Site(_vault(uri), uri.place.hsm, uri.name, tenant, client or own, also)
    bound = Binding(wanted.cluster or "", wanted.region or "", b"", wanted.organization).as_map()
    return AccessPolicy(
        principal=key.principal or own or "the server's managed identity",
        # RSA binds no context; the digest inside the payload does.
        bound_context=bound if site.hsm else {},
        statements=tuple(_statements(site, uri)),
        notices=tuple(_notices(site, uri.place.cloud)),
    )


def _vault(uri: KeyUri) -> str:
    """Returns the vault's name, which only a host in Azure's own domains contains."""
    host = uri.place.origin.partition("://")[2]
    label, _, domain = host.partition(".")
    if domain in (uri.place.cloud.vaults, uri.place.cloud.hsms):
        return label
    return f"<{'Managed HSM' if uri.place.hsm else 'vault'} at {host}>"


def _statements(site: _Site, uri: KeyUri) -> list[Statement]:
    clients = (site.client, *site.also)
    found = [
        Statement(
            "Service principal of Keyfold's application, once in the tenant",
            f"tenant {site.tenant}",
            "shell",
            f"az ad sp create --id {client}",
            (),
        )
        for client in (clients if site.tenant else ())
    ]
    of = _of_hsm if site.hsm else _of_vault
    role, _ = of(site)
    where = f"{'Managed HSM' if site.hsm else 'resource group of vault'} {site.vault}"
    scope = f"{uri.place.origin}/keys/{uri.name}"
    once = f"once in the {'Managed HSM' if site.hsm else 'resource group'}"
    return [
        *found,
        Statement(f"Role definition, {once}", where, "shell", role, site.actions),
        *(
            Statement(
                "Role assignment on the key",
                scope,
                "shell",
                of(replace(site, client=client))[1],
                site.actions,
            )
            for client in clients
        ),
    ]


def _of_vault(site: _Site) -> tuple[str, str]:
    """Returns the commands for a role of Azure's own access control and for its assignment."""
    definition = {
        "Name": site.role,
        "Description": "Uses root keys for Keyfold",
        # Custom roles belong to resource groups, not to vaults.
        "AssignableScopes": ["GROUP"],
        "Actions": [],
        "DataActions": site.actions,
    }
    role = (
        f"VAULT=$({site.id_of_vault}) &&\n"
        "az role definition create --role-definition "
        + _quoted(definition).replace("GROUP", "'\"${VAULT%/providers/*}\"'")
    )
    assignment = (
        f"VAULT=$({site.id_of_vault}) &&\n"
        f"az role assignment create --role {shlex.quote(site.role)} \\\n"
        f"  --assignee-object-id {site.assignee} \\\n"
        "  --assignee-principal-type ServicePrincipal \\\n"
        f'  --scope "$VAULT/keys/{site.key}"'
    )
    return role, assignment


def _of_hsm(site: _Site) -> tuple[str, str]:
    """Returns the commands for a role of a Managed HSM's own access control."""
    definition = {
        "roleName": site.role,
        "description": "Uses root keys for Keyfold",
        "actions": [],
        "notActions": [],
        "dataActions": site.actions,
        "notDataActions": [],
    }
    name = shlex.quote(site.vault)
    role = f"az keyvault role definition create --hsm-name {name} --role-definition " + _quoted(
        definition
    )
    assignment = (
        f"az keyvault role assignment create --hsm-name {name} \\\n"
        f"  --role {shlex.quote(site.role)} \\\n"
        f"  --assignee-object-id {site.assignee} \\\n"
        "  --assignee-principal-type ServicePrincipal \\\n"
        f"  --scope /keys/{site.key}"
    )
    return role, assignment


def _quoted(definition: Mapping[str, object]) -> str:
    """Returns a role definition in JSON, as an argument."""
    return f"'{json.dumps(definition, indent=2)}'"


def _notices(site: _Site, cloud: Cloud) -> list[str]:
    notices = []
    if cloud.vaults in _CLI_CLOUDS:
        notices.append(f"select the cloud first: az cloud set --name {_CLI_CLOUDS[cloud.vaults]}")
    if "<" in site.vault:
        notices.append(f"write the name of the {site.vault[1:-1]} in place of {site.vault}")
    if not site.client:
        notices.append(
            "the environment does not name the server's own identity: write its object id in "
            "place of <object id of the managed identity of Keyfold>"
        )
    if site.tenant:
        notices.append(
            f"sign in to the customer's tenant first: az login --tenant {site.tenant}; a Cloud "
            "Application Administrator of the tenant creates the service principal, and az says "
            "if it already exists"
        )
    return notices + (_of_hsm_keys(site) if site.hsm else _of_vault_keys(site))


def _of_vault_keys(site: _Site) -> list[str]:
    command = f"az keyvault set-policy --name {shlex.quote(site.vault)}"
    return [
        (
            "the built-in role Key Vault Crypto Service Encryption User has the same data actions, "
            "and may manage Event Grid subscriptions besides"
        ),
        (
            "a vault that has access policies in place of roles needs, for all of its keys: "
            f"{command} --object-id {site.assignee} --key-permissions get wrapKey unwrapKey"
        ),
        (
            "an RSA key binds no context, so no role can demand one; the wrapped key holds a "
            "digest of it, which Keyfold checks"
        ),
    ]


def _of_hsm_keys(site: _Site) -> list[str]:
    wrap, unwrap = (action(each, hsm=True) for each in ("wrapkey", "unwrapkey"))
    return [
        (
            f"this is for an oct-HSM key; an RSA-HSM key takes {wrap} and {unwrap} in place of "
            f"{' and '.join(site.actions[1:])}, and binds no context"
        ),
        (
            "no role can demand a context; the Managed HSM opens a ciphertext only with the "
            "context that wrapped it"
        ),
    ]
