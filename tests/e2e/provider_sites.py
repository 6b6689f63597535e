"""Each provider's counterpart, with the environment and settings file that a server needs.

A site is a counterpart from the provider suite, which a test uses as the customer would, and the
tables that a user would write for such a service. While a site is open, this process has the
environment that the SDKs read, so that every server that it starts inherits it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import keyfold
from contract.aws_kms import VENDOR, AwsCounterpart
from contract.azure_key_vault import AzureCounterpart
from contract.counterparts import Counterpart, NotInstalledError
from contract.gcp_kms import GcpCounterpart
from contract.local import LocalCounterpart
from contract.vault_transit import VaultCounterpart
from counterparts.azure_key_vault import VAULT_RESOURCE
from keyfold_server.domain.keyspec import RootKey

CLOUDS: Final = ("aws", "azure", "gcp", "vault")
"""The providers that are reached over a network."""

EVERY: Final = (*CLOUDS, "local")

ORGANIZATION: Final = "example"
"""The organization that owns the tests' clusters and their external id."""


@dataclass
class Site:
    """One provider with its counterpart.

    Attributes:
        name: The provider's name in `EVERY`.
        there: The counterpart, which acts for the customer and makes faults.
        service: A name for people of the service that answers in the provider's place.
        variables: Settings of the server's environment.
        endpoints: Origins for KEYFOLD_ALLOWED_ENDPOINTS.
        tables: Tables of the settings file, as TOML.
    """

    name: str
    there: Counterpart
    service: str
    variables: dict[str, str] = field(default_factory=dict)
    endpoints: tuple[str, ...] = ()
    tables: str = ""

    def admit(
        self, client: keyfold.Client, *, cluster: str = "", organization: str = ""
    ) -> keyfold.AccessPolicy:
        """Lets Keyfold in as the customer would, where that takes what only Keyfold knows.

        Args:
            client: A client of the server.
            cluster: The cluster to admit; an AWS role trusts Keyfold only for the last one.
            organization: The organization to admit in its place.

        Returns:
            The policy that Keyfold asks the customer to attach.
        """
        spec = spec_of(self.there.missing_key())
        policy = client.get_access_policy(spec, cluster=cluster, organization=organization)
        if isinstance(self.there, AwsCounterpart):
            self.there.trust(policy.external_id)
        return policy


def spec_of(key: RootKey) -> keyfold.KeySpec:
    """Returns a root key as callers name it."""
    return keyfold.KeySpec(key.type, key.uri, key.principal, dict(key.options))


def manifest(keys: Mapping[str, RootKey]) -> str:
    """Returns root keys by region as a manifest of CockroachDB's form."""
    specs = []
    for region, key in keys.items():
        spec = {"type": key.type, "uri": key.uri}
        if key.principal:
            spec["auth_principal"] = key.principal
        specs.append({"region": region, "key_spec": spec})
    return json.dumps({"region_specs": specs}, indent=2)


def settings(sites: list[Site], file: Path) -> dict[str, str | None]:
    """Writes the settings file of a server for these sites; returns the server's environment."""
    file.write_text("\n".join(site.tables for site in sites), encoding="utf-8")
    endpoints = ",".join(each for site in sites for each in site.endpoints)
    variables = {name: value for site in sites for name, value in site.variables.items()}
    return {"KEYFOLD_CONFIG": str(file), "KEYFOLD_ALLOWED_ENDPOINTS": endpoints, **variables}


@contextmanager
def opened(names: tuple[str, ...], folder: Path) -> Iterator[dict[str, Site | NotInstalledError]]:
    """Opens sites by name; an unavailable service has its error in its place.

    Args:
        names: The sites' names in `EVERY`.
        folder: An empty folder for their files.
    """
    with ExitStack() as stack:
        sites: dict[str, Site | NotInstalledError] = {}
        for name in names:
            own = folder / name
            own.mkdir()
            try:
                site = _OPEN[name](own)
            except NotInstalledError as error:
                sites[name] = error
            else:
                stack.callback(site.there.close)
                sites[name] = site
        yield sites


def _table(name: str, values: Mapping[str, Any]) -> str:
    """Returns a table of a settings file; JSON's strings, lists and booleans are TOML's, too."""
    lines = [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join([f"[{name}]", *lines, ""])


def _aws(folder: Path) -> Site:
    tables = _table("providers.aws", {"principal": VENDOR})
    said = "LocalStack with this project's STS"
    return Site("aws", AwsCounterpart(folder), said, tables=tables)


def _azure(folder: Path) -> Site:
    there = AzureCounterpart(folder)
    url = there.layer.url
    table = {
        "authority": url,
        "instance_discovery": False,
        "ca": str(folder / "azure-ca.pem"),
    }
    tables = _table("providers.azure", table)
    tables += _table("providers.azure.audiences", {url: VAULT_RESOURCE})
    said = "this project's own stand-in for Key Vault and Entra"
    return Site("azure", there, said, endpoints=(url,), tables=tables)


def _gcp(folder: Path) -> Site:
    there = GcpCounterpart(folder)
    table = {
        "principal": there.own,
        "endpoint": f"127.0.0.1:{there.layer.port}",
        "iam_endpoint": there.tokens.url,
        "ca": str(there.kms.ca_file),
    }
    said = "this project's own stand-in for Cloud KMS and IAM"
    return Site("gcp", there, said, tables=_table("providers.gcp", table))


def _vault(folder: Path) -> Site:
    there = VaultCounterpart(folder)
    role = there.create_key().principal.rpartition("/")[2]
    found = there.server.call("GET", f"auth/{there.login}/role/{role}/role-id")
    table = {
        "auth": "approle",
        "mount": there.login,
        "role": role,
        "role_id": found["data"]["role_id"],
        "credential": str(folder / "secret-id"),
        "ca": str(folder / "ca.pem"),
    }
    tables = _table(f'vault."{there.layer.url}"', table)
    return Site("vault", there, "a real OpenBao server", tables=tables)


def _local(folder: Path) -> Site:
    there = LocalCounterpart(folder)
    variables = {"KEYFOLD_LOCAL_KEYS": str(folder / "keys.json")}
    return Site("local", there, "a file of root keys", variables)


_OPEN: Final[Mapping[str, Callable[[Path], Site]]] = {
    "aws": _aws,
    "azure": _azure,
    "gcp": _gcp,
    "vault": _vault,
    "local": _local,
}
