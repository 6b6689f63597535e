"""Customers' sites: root keys at a real counterpart, and the buttons that customers press there.

A site goes through the real adapter and over the wire. It never ends Keyfold's sessions itself, as
no customer can: a principal that is taken away keeps what it has until it ends.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from contract.aws_kms import VENDOR, AwsCounterpart, _client
from contract.azure_key_vault import IDENTITY, AzureCounterpart
from contract.azure_key_vault import VENDOR as AZURE_VENDOR
from contract.gcp_kms import PERMISSIONS, GcpCounterpart
from contract.local import LocalCounterpart
from contract.vault_transit import _ROLE, VaultCounterpart, _path
from counterparts import localstack
from counterparts.aws_sts import Role
from counterparts.azure_key_vault import TENANT
from counterparts.gcp_iam import GET_ACCESS_TOKEN
from fakes import FakeClock
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import KeyProvider
from keyfold_server.domain.what_if import WhatIf

PERMISSION: Final = {
    WhatIf.REMOVE_WRAP_PERMISSION: "wrap",
    WhatIf.REMOVE_UNWRAP_PERMISSION: "unwrap",
    WhatIf.REMOVE_DESCRIBE_PERMISSION: "describe",
}
"""The permission that an action takes away, as counterparts name it."""

_ALL: Final = ("wrap", "unwrap", "describe")


class Site:
    """A customer's KMS with its keys.

    Attributes:
        type: The provider's type.
        provider: The real adapter.
        clock: Its clock.
        principals: The principals that keys can be used as.
    """

    type: str
    provider: KeyProvider
    clock: FakeClock
    principals: Sequence[str] = ("",)

    def create_key(self, *, multi_region: bool = False) -> str:
        """Makes a key that every principal may use, and returns its uri."""
        raise NotImplementedError

    def variants(self, uri: str) -> list[str]:
        """Returns further uris that name the key or one of its replicas."""
        del uri
        return []

    def whole(self, uri: str) -> str:
        """Returns what all uris of one key have in common."""
        return uri

    def whole_uri(self, uri: str) -> str:
        """Returns the uri without a version."""
        return uri

    def new_version(self, uri: str) -> None:
        """Rotates a key."""
        raise NotImplementedError

    def pins(self, uri: str) -> bool:
        """Returns whether a uri names one version."""
        del uri
        return False

    def versions(self, uri: str, version: str) -> None:
        """Makes sure that a version is one that the customer can press a button for."""

    def trust(self, external_id: str) -> None:
        """Puts an external id into the trust policies."""

    def press(self, what: WhatIf, uri: str, version: str, principals: Sequence[str]) -> None:
        """Does what a customer would do; `principals` use the key."""
        raise NotImplementedError

    def take_back(self, what: WhatIf, uri: str, version: str, principals: Sequence[str]) -> None:
        """Takes exactly that back, where it can be taken back."""
        raise NotImplementedError

    def do_what_it_needs(self, what: WhatIf, uri: str, version: str) -> None:
        """Does what a person has to do besides."""
        raise NotImplementedError

    def clear(self) -> None:
        """Makes sure that the next case can use every principal."""

    def close(self) -> None:
        """Ends everything."""


class AwsSite(Site):
    """A customer's account in AWS, with two roles; some keys trust the server's own identity."""

    type = "AWS_KMS"
    _ACTIONS: Final = {
        "wrap": "kms:Encrypt",
        "unwrap": "kms:Decrypt",
        "describe": "kms:DescribeKey",
    }
    _ELSEWHERE: Final = "us-west-2"

    def __init__(self, folder: Path) -> None:
        self._there = AwsCounterpart(folder)
        self.provider, self.clock = self._there.provider, self._there.clock
        self.principals = (self._there.role, self._there.add_role(), "")
        self._denied: dict[str, set[tuple[str, str]]] = {}
        self._replicas: dict[str, str] = {}
        self._gone: dict[str, Role] = {}
        self._external_ids: list[str] = []

    def _customer(self, uri: str) -> Any:
        return _client(localstack.shared().url, uri.split(":")[3])

    def create_key(self, *, multi_region: bool = False) -> str:
        uri = self._there.create_key(**({"MultiRegion": True} if multi_region else {})).uri
        self._write(uri)
        if multi_region:
            key = RootKey(self.type, uri)
            self._replicas[uri] = self._there.replicate(key, self._ELSEWHERE).uri
        return uri

    def variants(self, uri: str) -> list[str]:
        return [self._replicas[uri]] if uri in self._replicas else []

    def whole(self, uri: str) -> str:
        return uri.rpartition("/")[2] if "/mrk-" in uri else uri

    def new_version(self, uri: str) -> None:
        if "/mrk-" not in uri:  # LocalStack rotates no multi-Region key.
            self._there.new_version(RootKey(self.type, uri))

    def trust(self, external_id: str) -> None:
        # Those of earlier cases stay: while they do, their sessions show that Keyfold is good.
        self._external_ids.append(external_id)
        for role in self.principals:
            if role:
                self._there.aws.sts.roles[role] = Role.trusting(VENDOR, *self._external_ids)

    def _write(self, uri: str) -> None:
        denied = self._denied.get(uri, set())
        statements = [
            {
                "Effect": "Allow",
                "Principal": {"AWS": principal or VENDOR},
                "Action": [self._ACTIONS[p] for p in _ALL if (principal, p) not in denied],
            }
            for principal in self.principals
            if any((principal, p) not in denied for p in _ALL)
        ]
        self._there.put_policy(RootKey(self.type, uri), *statements)

    def press(self, what: WhatIf, uri: str, version: str, principals: Sequence[str]) -> None:
        assert not version
        customer = self._customer(uri)
        if what is WhatIf.DISABLE:
            customer.disable_key(KeyId=uri)
        elif what is WhatIf.DELETE:
            customer.schedule_key_deletion(KeyId=uri, PendingWindowInDays=7)
        elif what in PERMISSION:
            self._deny(uri, principals, PERMISSION[what])
        else:
            for principal in principals:
                if principal:
                    self._gone[principal] = self._there.aws.sts.roles.pop(principal)
                else:
                    self._deny(uri, [principal], *_ALL)

    def take_back(self, what: WhatIf, uri: str, version: str, principals: Sequence[str]) -> None:
        customer = self._customer(uri)
        if what is WhatIf.DISABLE:
            customer.enable_key(KeyId=uri)
        elif what is WhatIf.DELETE:
            customer.cancel_key_deletion(KeyId=uri)
        else:
            self._denied.pop(uri, None)
            self._write(uri)
            self._there.aws.sts.roles.update(self._gone)
            self._gone.clear()

    def _deny(self, uri: str, principals: Sequence[str], *permissions: str) -> None:
        denied = self._denied.setdefault(uri, set())
        denied |= {(principal, p) for principal in principals for p in permissions}
        self._write(uri)

    def do_what_it_needs(self, what: WhatIf, uri: str, version: str) -> None:
        assert what is WhatIf.DELETE
        self._customer(uri).enable_key(KeyId=uri)

    def close(self) -> None:
        self._there.close()


class AzureSite(Site):
    """A customer's vault or Managed HSM, and two applications in the customer's tenant."""

    type = "AZURE_KEY_VAULT"

    def __init__(self, folder: Path, *, hsm: bool = False) -> None:
        self._there = there = AzureCounterpart(folder, hsm=hsm)
        self.provider, self.clock = there.provider, there.clock
        self._other = str(uuid.uuid4())
        second = there.azure.register_application(TENANT, self._other)
        there.azure.trust(
            self._other,
            there.azure.identity_issuer(AZURE_VENDOR),
            there.azure.object_id(f"{AZURE_VENDOR}/{IDENTITY}"),
        )
        self.principals = (there.principal, second)

    def create_key(self, *, multi_region: bool = False) -> str:
        key = self._there.create_key()
        for principal in self.principals:
            self._allow(key.uri, principal, *_ALL)
        return key.uri

    def variants(self, uri: str) -> list[str]:
        newest = self._there.azure.versions(self._at(uri))[-1].rpartition("/")[2]
        return [f"{uri}/{newest}"]

    def pins(self, uri: str) -> bool:
        return not uri.rpartition("/")[0].endswith("/keys")

    def new_version(self, uri: str) -> None:
        self._there.azure.new_version(self._at(self.whole(uri)))

    def press(self, what: WhatIf, uri: str, version: str, principals: Sequence[str]) -> None:
        azure, whole = self._there.azure, self._at(self.whole(uri))
        if what is WhatIf.DISABLE:
            azure.disable(self._meant(uri, version))
        elif what is WhatIf.DELETE:
            azure.delete(whole)
        elif what in PERMISSION:
            action = self._there._actions[PERMISSION[what]]
            for principal in principals:
                azure.deny(principal, whole, action)
        else:
            for principal in principals:
                azure.withdraw(*principal.split("/"))

    def take_back(self, what: WhatIf, uri: str, version: str, principals: Sequence[str]) -> None:
        azure, whole = self._there.azure, self._at(self.whole(uri))
        if what is WhatIf.DISABLE:
            azure.enable(self._meant(uri, version))
        elif what is WhatIf.DELETE:
            azure.recover(whole)
        elif what in PERMISSION:
            for principal in principals:
                self._allow(uri, principal, PERMISSION[what])
        else:
            for principal in principals:
                azure.consent(*principal.split("/"))

    def _allow(self, uri: str, principal: str, *permissions: str) -> None:
        actions = [self._there._actions[each] for each in permissions]
        self._there.azure.allow(principal, self._at(self.whole(uri)), *actions)

    def whole(self, uri: str) -> str:
        return uri.rpartition("/")[0] if self.pins(uri) else uri

    whole_uri = whole

    def _meant(self, uri: str, version: str) -> str:
        """Returns the url of what a customer disables: a version, or the key with all of them."""
        return self._at(f"{self.whole(uri)}/{version}" if version else uri)

    def _at(self, uri: str) -> str:
        return self._there.there(RootKey(self.type, uri))

    def close(self) -> None:
        self._there.close()


class GcpSite(Site):
    """A customer's project, two service accounts in it, and the server's own account."""

    type = "GCP_CLOUD_KMS"

    def __init__(self, folder: Path) -> None:
        self._there = there = GcpCounterpart(folder)
        self.provider, self.clock = there.provider, there.clock
        second = there.customer.replace("cmek-user", "cmek-other")
        there.kms.allow(there.own, second, GET_ACCESS_TOKEN)
        self.principals = (there.customer, second, "")

    def create_key(self, *, multi_region: bool = False) -> str:
        uri = self._there.create_key().uri
        for principal in self.principals:
            self._permit(uri, principal, *_ALL)
        return uri

    def new_version(self, uri: str) -> None:
        self._there.kms.new_version(uri)

    def press(self, what: WhatIf, uri: str, version: str, principals: Sequence[str]) -> None:
        key = RootKey(self.type, uri)
        if what is WhatIf.DISABLE:
            self._there.disable(key, version or None)
        elif what is WhatIf.DELETE:
            for name in self._there._versions(key, version or None):
                self._there.kms.destroy(name)
        elif what in PERMISSION:
            for principal in principals:
                self._forbid(uri, principal, PERMISSION[what])
        else:
            for principal in principals:
                if principal:
                    self._there.kms.deny(self._there.own, principal, GET_ACCESS_TOKEN)
                else:
                    self._forbid(uri, principal, *_ALL)

    def take_back(self, what: WhatIf, uri: str, version: str, principals: Sequence[str]) -> None:
        key = RootKey(self.type, uri)
        if what is WhatIf.DISABLE:
            self._there.enable(key, version or None)
        elif what is WhatIf.DELETE:
            for name in self._there._versions(key, version or None):
                self._there.kms.restore(name)
        else:
            for principal in principals:
                self._permit(uri, principal, *_ALL)
                if principal:
                    self._there.kms.allow(self._there.own, principal, GET_ACCESS_TOKEN)

    def do_what_it_needs(self, what: WhatIf, uri: str, version: str) -> None:
        assert what is WhatIf.DELETE
        self._there.enable(RootKey(self.type, uri), version or None)

    def _permit(self, uri: str, principal: str, *permissions: str) -> None:
        for each in permissions:
            self._there.kms.allow(principal or self._there.own, uri, PERMISSIONS[each])

    def _forbid(self, uri: str, principal: str, *permissions: str) -> None:
        for each in permissions:
            self._there.kms.deny(principal or self._there.own, uri, PERMISSIONS[each])

    def close(self) -> None:
        self._there.close()


class VaultSite(Site):
    """A customer's OpenBao, with one AppRole for Keyfold."""

    type = "VAULT_TRANSIT"

    def __init__(self, folder: Path) -> None:
        self._there = there = VaultCounterpart(folder)
        self.provider, self.clock = there.provider, there.clock
        self.principals = (f"auth/{there.login}/role/{_ROLE}", "")
        self._at = f"auth/{there.login}/role/{_ROLE}"
        call = there.server.call
        self._role_id = str(call("GET", f"{self._at}/role-id")["data"]["role_id"])
        self._installed = True

    def create_key(self, *, multi_region: bool = False) -> str:
        return self._there.create_key().uri

    def new_version(self, uri: str) -> None:
        self._there.new_version(RootKey(self.type, uri))

    def _config(self, uri: str) -> dict[str, int]:
        found = self._there.server.call("GET", _path(RootKey(self.type, uri)))["data"]
        return dict(found)

    def versions(self, uri: str, version: str) -> None:
        # A minimum version never stops the newest.
        if version and int(version) >= int(self._config(uri)["latest_version"]):
            self.new_version(uri)

    def press(self, what: WhatIf, uri: str, version: str, principals: Sequence[str]) -> None:
        key = RootKey(self.type, uri)
        if what is WhatIf.DISABLE and version:
            self._there.hold_back(key, version)
        elif what is WhatIf.DISABLE:
            self._there.disable(key)
        elif what is WhatIf.DELETE and version:
            self._there.delete(key, version)
        elif what is WhatIf.DELETE:
            self._there.server.call("POST", f"{_path(key)}/config", deletion_allowed=True)
            self._there.server.call("DELETE", _path(key))
        elif what in PERMISSION:
            self._there.deny(key, PERMISSION[what])
        else:
            self._there.server.call("DELETE", self._at)
            self._installed = False

    def take_back(self, what: WhatIf, uri: str, version: str, principals: Sequence[str]) -> None:
        key = RootKey(self.type, uri)
        if what is WhatIf.DISABLE and version:
            self._there.server.call(
                "POST",
                f"{_path(key)}/config",
                min_decryption_version=1,
                min_encryption_version=0,
            )
        elif what is WhatIf.DISABLE:
            self._there.enable(key)
        elif what in PERMISSION:
            self._there.restore(key, PERMISSION[what])
        elif what is WhatIf.REMOVE_PRINCIPAL:
            self._there.server.create_app_role(
                self._there.login, _ROLE, token_policies=[self._there.mount], token_ttl="1h"
            )

    def do_what_it_needs(self, what: WhatIf, uri: str, version: str) -> None:
        assert what is WhatIf.REMOVE_PRINCIPAL
        self.clear()

    def clear(self) -> None:
        if self._installed:
            return
        self._installed = True
        # The vendor's settings name these two, so giving them to the role is to install them.
        call = self._there.server.call
        call("POST", f"{self._at}/role-id", role_id=self._role_id)
        call("POST", f"{self._at}/custom-secret-id", secret_id=self._there._secret_id)

    def close(self) -> None:
        self._there.close()


class LocalSite(Site):
    """A development key file."""

    type = "LOCAL"

    def __init__(self, folder: Path) -> None:
        self._there = LocalCounterpart(folder)
        self.provider, self.clock = self._there.provider, FakeClock()

    def create_key(self, *, multi_region: bool = False) -> str:
        return self._there.create_key().uri

    def new_version(self, uri: str) -> None:
        self._there.new_version(RootKey(self.type, uri))

    def press(self, what: WhatIf, uri: str, version: str, principals: Sequence[str]) -> None:
        key = RootKey(self.type, uri)
        if what is WhatIf.DISABLE:
            self._there.disable(key, version or None)
        elif what is WhatIf.DELETE:
            self._there.delete(key, version or None)

    def take_back(self, what: WhatIf, uri: str, version: str, principals: Sequence[str]) -> None:
        if what is WhatIf.DISABLE:
            self._there.enable(RootKey(self.type, uri), version or None)


SITES: Final[dict[str, Callable[[Path], Site]]] = {
    "AWS_KMS": AwsSite,
    "AZURE_KEY_VAULT": AzureSite,
    "AZURE_KEY_VAULT managed HSM": functools.partial(AzureSite, hsm=True),
    "GCP_CLOUD_KMS": GcpSite,
    "VAULT_TRANSIT": VaultSite,
    "LOCAL": LocalSite,
}
"""The sites, by the names that the provider suite's rows have."""
