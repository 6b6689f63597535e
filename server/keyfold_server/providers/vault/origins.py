"""The Vault and OpenBao servers that Keyfold may call, and how it logs in at each.

Invariant (protocol C3): a credential belongs to one origin, the one whose section names it, and
`VAULT_TOKEN` to `VAULT_ADDR`. Keyfold does not call an origin without a section of its own. This
module must not know keys, nor send anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from keyfold_server.domain.errors import InvalidKeySpecError, SetupError
from keyfold_server.providers.shared.origins import (
    allowed_origins,
    configured_origin,
    refuse_plain_http,
)
from keyfold_server.providers.vault.uri import is_path, principal

Auth = Literal["token", "approle", "kubernetes", "jwt"]
"""The auth methods with which Keyfold can log in."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A section `[vault."https://HOST:PORT"]` of the settings.

    Attributes:
        auth: The auth method.
        mount: The auth method's path; empty for its usual one.
        role: The role to log in as, which the principal is made of; `token` does not have one.
        role_id: AppRole's role id, which is not a secret; empty if it is the role's name.
        namespace: The namespace of the auth method. The namespace of a key is in its uri.
        credential: File of the token, the secret id or the JWT. Keyfold reads it at each login.
        ca: File of the certificates to trust, in PEM; None trusts the usual authorities.
        token: The token itself, which only the environment can give.
    """

    auth: Auth
    mount: str = ""
    role: str = ""
    role_id: str = ""
    namespace: str = ""
    credential: Path | None = None
    ca: Path | None = None
    token: str = field(default="", repr=False)

    @property
    def path(self) -> str:
        """The auth method's path: `mount`, or else the usual one."""
        return self.mount or self.auth

    @property
    def principal(self) -> str | None:
        """The principal that Keyfold logs in as, as key specs write it; None for a token."""
        return None if self.auth == "token" else principal(self.path, self.role)

    def check(self, name: str) -> None:
        """Refuses a section that cannot work.

        Args:
            name: The section's name, for the message.

        Raises:
            SetupError: The message says what is wrong.
        """
        faults = {
            f"auth must be one of {', '.join(get_args(Auth))}": self.auth not in get_args(Auth),
            "a token has no mount, role or role_id; leave them out": self.auth == "token"
            and bool(self.mount or self.role or self.role_id),
            "role must name the role to log in as": self.auth != "token"
            and (not self.role or not is_path(self.role) or "/" in self.role),
            "role_id is AppRole's alone; leave it out": bool(self.role_id)
            and self.auth != "approle",
            "credential must name the file to log in with": self.credential is None
            and not self.token,
            "mount must be a path such as approle": not is_path(self.path),
            "namespace must be a path such as team or org/team": bool(self.namespace)
            and not is_path(self.namespace),
        }
        for fault, there in faults.items():
            if there:
                raise SetupError(f'[vault."{name}"]: {fault}')


class Origins:
    """The origins that Keyfold may call, by their canonical form."""

    def __init__(
        self,
        sections: Mapping[str, Origin],
        allowed: Iterable[str],
        environment: Mapping[str, str],
    ) -> None:
        """Takes the sections; see `provider.VaultTransitProvider` for the arguments.

        Raises:
            SetupError: A section cannot work, two are for one origin, or an allowed endpoint is
                not an origin.
        """
        self._allowed = allowed_origins(allowed)
        self._origins: dict[str, Origin] = {}
        for name, section in sections.items():
            place = configured_origin(name)
            if place is None:
                raise SetupError(
                    f'[vault."{name}"]: write the origin alone, such as https://vault.example:8200'
                )
            if place in self._origins:
                raise SetupError(
                    f'[vault."{name}"]: there is another section for {place}; keep one'
                )
            section.check(name)
            self._origins[place] = section
        self._take_environment(environment)

    def _take_environment(self, environment: Mapping[str, str]) -> None:
        """Adds the one origin of the environment that every Vault tool reads."""
        place = configured_origin(environment.get("VAULT_ADDR", ""))
        token = environment.get("VAULT_TOKEN", "")
        if place is None or not token or place in self._origins:
            return
        ca = environment.get("VAULT_CACERT")
        section = Origin(
            "token",
            namespace=environment.get("VAULT_NAMESPACE", "").strip("/"),
            ca=Path(ca) if ca else None,
            token=token,
        )
        section.check("VAULT_ADDR")
        self._origins[place] = section

    def places(self) -> tuple[str, ...]:
        """Returns the origins that have a section."""
        return tuple(self._origins)

    def of(self, place: str) -> Origin:
        """Returns the section of an origin.

        Raises:
            InvalidKeySpecError: The origin has no section, or is plain http and not listed so.
        """
        refuse_plain_http(place, self._allowed)
        section = self._origins.get(place)
        if section is None:
            raise InvalidKeySpecError(
                f"the settings have no section for {place}, so Keyfold has no credential for it; "
                f'add [vault."{place}"]',
                field="key_spec.uri",
            )
        return section
