"""Azure Key Vault, Managed HSM and Microsoft Entra on the wire, for tests on one machine.

Tests point the real SDKs at it: HTTPS under an authority of its own, on loopback. It follows the
public API reference and the SDKs' own types, and knows no adapter.

Enforced:

- Entra: OpenID discovery, JWKS and `/{tenant}/oauth2/v2.0/token` for client credentials with a
  secret or a client assertion, which is a JWT of an issuer, subject and audience that the
  application trusts, within its time and signed by that issuer. Applications are in a tenant only
  by registration or consent. Managed identities by IMDS and App Service endpoints, in plain HTTP.
- Tokens are RS256 JWTs. Each call checks signature, issuer, tenant, audience and times, and that no
  test has ended it. A bare request gets 401 and the challenge (`resource` from a vault, `scope`
  from an HSM); a revoked token gets one with claims.
- Order: token, firewall, api-version, permission, key. Role assignments for each principal, key
  and data action, default deny. A vault answers `ForbiddenByRbac`, an HSM `AccessDenied`.
- Keys: create, rotate, get, list and list versions (in pages), update, delete (soft), get deleted,
  recover, purge. wrapkey, unwrapkey, encrypt, decrypt with RSA-OAEP and RSA-OAEP-256 (RSA,
  RSA-HSM); on an HSM A128KW to A256KW by wrapkey and unwrapkey alone, A128GCM to A256GCM with AAD
  by encrypt and decrypt alone (oct-HSM). Names match the key's size.
- A disabled version wraps and encrypts but neither unwraps nor decrypts; one outside nbf and exp
  unwraps and decrypts but neither wraps nor encrypts; `key_ops` holds for all four; a deleted key
  is not found and its name not free.
- `x-ms-request-id` in each answer. Error answers are data, each with its source:
  `data/azure_errors.json` says what of them is assumed.

Left out (501, or as said): sign, verify, import, backup, restore, release, random bytes, rotation
policies, elliptic curves, RSA1_5, AES-CBC, CKM_AES_KEY_WRAP; access policies and role definitions
(assignments come through the control object); the automatic purge; Entra's users, certificates,
instance discovery and v1.0 endpoints, and fetching an issuer's keys (its public key is given);
propagation delays (every change holds at once); limits of rate (429 comes as a fault).

Names: each vault has a port of its own, because `vault1.localhost` resolves on few machines. So the
challenge's resource is never the vault's domain, and clients set `verify_challenge_resource=False`.
Key ids carry the host that the client named, so a proxy in front does not show.

    with AzureKeyVault() as azure:
        who = azure.register_application(azure.tenant, client, "secret")
        key = azure.create_key("app")
        azure.allow(who, key, "read", "wrap", "unwrap")

Alone: `PYTHONPATH=tests python -m counterparts.azure_key_vault --port 8443 --out DIR`.
"""

from __future__ import annotations

import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from counterparts.azure_control import Control, port_of
from counterparts.azure_http import Listener
from counterparts.azure_login import EntraSite, IdentitySite
from counterparts.azure_site import Site
from counterparts.azure_vault import VaultSite
from counterparts.pki import Authority

TENANT: Final = "6f1d3c1e-2b7a-4a55-9c0e-7d5f0a9b4e21"
VAULT_RESOURCE: Final = "https://vault.azure.net"
HSM_RESOURCE: Final = "https://managedhsm.azure.net"


class AzureKeyVault(Control):
    """One directory, one vault and one Managed HSM, and more vaults on demand; use it in a `with`.

    Args:
        port: Entra's port; the vault, the HSM and the identity endpoints get the next three. 0
            picks free ports.
        tenant: The tenant that the vaults belong to.
        clock: Clock in seconds since the epoch, for tokens and for the times of keys.

    Attributes:
        tenant: The tenant that the vaults belong to.
        ca_pem: Certificate of the authority, in PEM, for clients to trust.
        authority: Entra's URL, without a tenant.
        hsm_url: The Managed HSM's URL.
        identity_url: The URL of the managed identity endpoints, for
            AZURE_POD_IDENTITY_AUTHORITY_HOST; with `/msi/token` for IDENTITY_ENDPOINT.
        identity_header: The value for IDENTITY_HEADER.
    """

    def __init__(
        self, port: int = 0, tenant: str = TENANT, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(clock)
        self.tenant = tenant
        self._clock = clock
        self._listeners: list[Listener] = []
        authority = Authority("azure counterpart")
        self.ca_pem = authority.ca_pem
        self._tls = _context(*authority.issue(["localhost", "127.0.0.1"]))
        identity = IdentitySite(self._directory)
        self.identity_header = identity.header
        try:
            self.authority = self._listen(EntraSite(self._directory), port).url
            self._directory.authority = self.authority
            self.vault_url = self.add_vault(port=port and port + 1)
            self.hsm_url = self.add_vault(hsm=True, port=port and port + 2)
            self.identity_url = self._listen(identity, port and port + 3, plain=True).url
        except OSError:  # Another program has the port.
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Cuts all connections and frees the ports."""
        while self._listeners:
            self._listeners.pop().stop()

    def add_vault(
        self, tenant: str = "", *, hsm: bool = False, resource: str = "", port: int = 0
    ) -> str:
        """Adds a vault or a Managed HSM and returns its URL.

        Args:
            tenant: The tenant that it belongs to; by default the counterpart's own.
            hsm: Whether it is a Managed HSM.
            resource: The audience of its tokens, if it is as in another cloud.
            port: Its port; 0 for a free one.
        """
        resource = resource or (HSM_RESOURCE if hsm else VAULT_RESOURCE)
        tenant = tenant or self.tenant
        self._directory.host(tenant, resource)
        site = VaultSite(self._directory, tenant, resource, self._clock, hsm=hsm)
        url = self._listen(site, port).url
        self._vaults[port_of(url)] = site
        return url

    # --- inside ------------------------------------------------------------------------------

    def _listen(self, site: Site, port: int, *, plain: bool = False) -> Listener:
        tls = None if plain else self._tls
        listener = Listener(site, port, tls, self._faults, self._log)
        listener.start()
        self._listeners.append(listener)
        return listener


def _context(certificate: bytes, key: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # The standard library reads certificates only from files.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "server.pem")
        path.touch(mode=0o600)
        path.write_bytes(certificate + key)
        context.load_cert_chain(path)
    return context


if __name__ == "__main__":
    from counterparts.azure_alone import main

    main()
