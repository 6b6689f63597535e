"""The control of the Azure counterpart: administrators, customers, and faults.

Every change holds from the next request on; requests under way keep what they found. All methods
may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import urlsplit

from counterparts.azure_faults import Fault, Faults
from counterparts.azure_federation import EXCHANGE, Federated
from counterparts.azure_site import Exchange, RequestLog
from counterparts.azure_vault import VaultSite
from counterparts.entra import Directory


class Control:
    """Directory, vaults and faults, with the calls that change them.

    Args:
        clock: Clock in seconds since the epoch.

    Attributes:
        vault_url: The vault in which keys are created unless another is named.
    """

    vault_url: str

    def __init__(self, clock: Callable[[], float]) -> None:
        self._log = RequestLog()
        self._faults = Faults()
        self._directory = Directory(clock)
        self._vaults: dict[int, VaultSite] = {}

    # --- principals --------------------------------------------------------------------------

    def register_application(self, tenant: str, client: str, secret: str | None = None) -> str:
        """Registers an application, or adds a secret to one; returns `tenant/client`."""
        return self._directory.register(tenant, client, secret).principal

    def consent(self, tenant: str, client: str) -> str:
        """Lets a registered application into a customer's tenant; returns `tenant/client`."""
        return self._directory.consent(tenant, client).principal

    def is_in(self, tenant: str, client: str) -> bool:
        """Returns whether an application is in a tenant."""
        return self._directory.knows(tenant, client)

    def withdraw(self, tenant: str, client: str) -> None:
        """Removes an application's service principal: AADSTS7000229 from then on."""
        self._directory.withdraw(tenant, client)

    def disable_application(self, client: str) -> None:
        """Disables an application everywhere: AADSTS7000112 from then on."""
        self._directory.set_disabled(client, disabled=True)

    def enable_application(self, client: str) -> None:
        """Enables an application again."""
        self._directory.set_disabled(client, disabled=False)

    def expire_secret(self, client: str, secret: str) -> None:
        """Lets a client secret expire: AADSTS7000222 from then on."""
        self._directory.expire_secret(client, secret)

    def assign_identity(self, tenant: str, client: str) -> str:
        """Adds a managed identity, the first one as the system's own; returns `tenant/client`."""
        return self._directory.assign_identity(tenant, client).principal

    def trust(
        self,
        client: str,
        issuer: str,
        subject: str,
        audience: str = EXCHANGE,
        key: str | None = None,
    ) -> None:
        """Adds a federated credential to an application.

        Args:
            client: The application.
            issuer: Issuer of the assertions; `identity_issuer` for managed identities of this one.
            subject: Subject of the assertions; `object_id` for a managed identity of this one.
            audience: Audience of the assertions.
            key: The issuer's public key in PEM (RSA or P-256); None for this directory's own.
        """
        self._directory.trust(client, Federated(issuer, subject, audience, key))

    def identity_issuer(self, tenant: str) -> str:
        """Returns the issuer of the tokens that a tenant's managed identities exchange."""
        return self._directory.issuer(tenant, v2=True)

    def object_id(self, principal: str) -> str:
        """Returns the object id of a principal: the subject of its tokens."""
        return self._directory.object_id(*principal.split("/"))

    def set_token_lifetime(self, seconds: int) -> None:
        """Sets the lifetime of tokens issued from now on."""
        self._directory.lifetime = seconds

    def expire_tokens(self, principal: str | None = None) -> None:
        """Ends the tokens of a principal, or all tokens, as if they had expired (401)."""
        self._directory.end_tokens(principal, revoked=False)

    def revoke_tokens(self, principal: str | None = None) -> None:
        """Revokes the tokens of a principal, or all tokens: 401 with a claims challenge."""
        self._directory.end_tokens(principal, revoked=True)

    # --- permissions -------------------------------------------------------------------------

    def allow(self, principal: str, key: str, *actions: str) -> None:
        """Gives a principal data actions on a key, or on a whole vault by its URL.

        Args:
            principal: The principal, as `tenant/client`.
            key: The key's or the vault's URL.
            *actions: `read`, `wrap`, `unwrap`, `encrypt`, `decrypt`, `create`, `update`,
                `rotate`, `delete`, `recover`, `purge`, or Azure's full names; without any, all.
        """
        vault, name, _ = self._find(key)
        vault.permissions.allow(principal, name, *actions)

    def deny(self, principal: str, key: str, *actions: str) -> None:
        """Takes data actions away again, as they were given; without any named, all of them."""
        vault, name, _ = self._find(key)
        vault.permissions.deny(principal, name, *actions)

    def given(self, principal: str, vault: str) -> list[tuple[str, str]]:
        """Returns a principal's permissions in a vault: keys, `*` for all, with actions in full."""
        return sorted(self._find(vault)[0].permissions.given(principal))

    def close_network(
        self,
        vault: str,
        reason: Literal[
            "ForbiddenByFirewall", "ForbiddenByConnection", "ForbiddenByNsp"
        ] = "ForbiddenByFirewall",
    ) -> None:
        """Closes a vault's network to everybody."""
        self._find(vault)[0].closed = reason

    def open_network(self, vault: str) -> None:
        """Opens a vault's network again."""
        self._find(vault)[0].closed = ""

    # --- keys --------------------------------------------------------------------------------

    def create_key(
        self, name: str, vault: str = "", kty: str = "", size: int | None = None, **attributes: Any
    ) -> str:
        """Makes a key and returns its URL without a version.

        Args:
            name: The key's name.
            vault: The vault's URL; by default `vault_url`.
            kty: `RSA`, `RSA-HSM` or `oct-HSM`; by default `RSA` in a vault and `oct-HSM` in an HSM.
            size: Bits; 2048 or 256 by default.
            **attributes: `key_ops`, `enabled`, `nbf`, `exp` (seconds since the epoch), `tags`.
        """
        vault = vault or self.vault_url
        site = self._find(vault)[0]
        site.keys.create(name, kty or ("oct-HSM" if site.hsm else "RSA"), size, **attributes)
        return f"{vault}/keys/{name}"

    def new_version(self, key: str) -> str:
        """Rotates a key and returns the new version's URL."""
        vault, name, _ = self._find(key)
        return f"{_base(key)}/keys/{name}/{vault.keys.rotate(name).id}"

    def versions(self, key: str) -> list[str]:
        """Returns the URLs of a key's versions, the newest last."""
        vault, name, _ = self._find(key)
        return [f"{_base(key)}/keys/{name}/{one.id}" for one in vault.keys.versions(name)]

    def update(self, key: str, **attributes: Any) -> None:
        """Changes `enabled`, `nbf`, `exp`, `key_ops` or `tags` of a version, or of all versions."""
        vault, name, version = self._find(key)
        for one in vault.keys.versions(name):
            if version in ("", one.id):
                vault.keys.update(name, one.id, **attributes)

    def disable(self, key: str) -> None:
        """Disables a version by its URL, or all of a key: it no longer unwraps and decrypts."""
        self.update(key, enabled=False)

    def enable(self, key: str) -> None:
        """Enables a version by its URL, or all versions of a key."""
        self.update(key, enabled=True)

    def delete(self, key: str) -> None:
        """Deletes a key softly."""
        vault, name, _ = self._find(key)
        vault.keys.delete(name)

    def recover(self, key: str) -> None:
        """Recovers a softly deleted key, as it was."""
        vault, name, _ = self._find(key)
        vault.keys.recover(name)

    def purge(self, key: str) -> None:
        """Removes a softly deleted key for good."""
        vault, name, _ = self._find(key)
        vault.keys.purge(name)

    # --- faults ------------------------------------------------------------------------------

    def fault(self, fault: Fault | None = None, **members: Any) -> None:
        """Adds a fault for coming answers, given whole or by its members."""
        self._faults.add(fault or Fault(**members))

    def clear_faults(self) -> None:
        """Removes all waiting faults."""
        self._faults.clear()

    @property
    def requests(self) -> list[Exchange]:
        """The last 10,000 requests with everything that the clients sent, oldest first."""
        return self._log.all()

    def await_request(self, operation: str, timeout: float = 10.0) -> Exchange:
        """Returns the first request for an operation; waits for one for so many seconds.

        The log has a request before its answer is sent, and a hanging one when it begins to hang.

        Raises:
            TimeoutError: No request came.
        """
        return self._log.wait(operation, timeout)

    def operations(self, at: str | None = None) -> list[str]:
        """Returns the operations of all requests, or of those at one URL, oldest first."""
        return [one.operation for one in self.requests if at in (None, one.at)]

    def _find(self, url: str) -> tuple[VaultSite, str, str]:
        path = filter(None, urlsplit(url).path.split("/"))
        _, name, version, *_ = [*path, "", "", ""]
        return self._vaults[port_of(url)], name or "*", version


def port_of(url: str) -> int:
    """Returns the port of a vault's or a key's URL; each vault has its own."""
    return urlsplit(url).port or 443


def _base(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
