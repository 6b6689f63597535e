"""The applications in customers' tenants that Keyfold acts as, and the server's own identity.

Invariant: tokens are kept apart by principal and audience, connections by principal and origin, and
the number of both is bounded.
"""

from __future__ import annotations

from collections.abc import Callable

from keyfold_server.providers.azure.clients import Vault
from keyfold_server.providers.azure.credentials import tokens
from keyfold_server.providers.azure.logins import EntraToken, Logins
from keyfold_server.providers.azure.uri import Place
from keyfold_server.providers.shared.lease import Lease
from keyfold_server.providers.shared.logins import canary_of_our_own
from keyfold_server.providers.shared.principals import Bounded, Principal, Principals

AzurePrincipal = Principal[EntraToken, Callable[[str], Vault]]
"""A principal with the clients that call as it, by a vault's origin."""


class Applications:
    """Principals by their name and the audience of their tokens. Safe for many threads."""

    def __init__(
        self, logins: Logins, canary: str | None, ca: str | None, clock: Callable[[], float]
    ) -> None:
        """Prepares; the first call asks Azure.

        Args:
            logins: Logs in to Entra.
            canary: A principal of the vendor's own, `TENANT/CLIENT`, which nobody but the vendor
                can withdraw; None if the settings name no canary.
            ca: File of the certificates to trust; None takes those that requests brings.
            clock: Returns monotonic seconds.
        """
        self._logins = logins
        self._canary = canary
        self._ca = ca
        self._clock = clock
        self._principals: Principals[AzurePrincipal] = Principals()
        self._vaults: Bounded[Vault] = Bounded()

    def of(self, name: str, place: Place) -> AzurePrincipal:
        """Returns the principal that calls a vault or Managed HSM.

        Args:
            name: `TENANT/CLIENT`, or empty for the server's own identity.
            place: The vault or Managed HSM.
        """

        def make() -> AzurePrincipal:
            lease = tokens(
                name,
                lambda: self._login(name, place),
                clock=self._clock,
                cloud=place.cloud.authority,
                shown_good=lambda besides: self._shown_good(besides, place),
            )
            return Principal(lease, lambda origin: self._vault(name, origin))

        return self._principals.get((name, place.audience), make)

    def try_logins(self, place: Place) -> None:
        """Logs in as the server itself and as the canary, for a place; see `TriesLogins`."""
        self._logins.own(place)
        if self._canary is not None:
            with canary_of_our_own():
                self._logins.principal(self._canary, place)

    def _login(self, name: str, place: Place) -> EntraToken:
        return self._logins.principal(name, place) if name else self._logins.own(place)

    def _vault(self, name: str, origin: str) -> Vault:
        return self._vaults.get((name, origin), lambda: Vault(origin, self._ca))

    def _shown_good(self, besides: Lease[EntraToken], place: Place) -> bool:
        canary = self._canary
        return self._principals.shown_good(
            besides,
            canary=None if canary is None else lambda: self._logins.principal(canary, place),
            own=lambda: self._logins.own(place),
        )
