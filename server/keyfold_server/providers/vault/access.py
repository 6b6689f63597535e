"""What lets Keyfold use one transit key, and no more: a policy, and who has it.

Invariant: the paths and capabilities here are those that the adapter needs. A policy belongs to the
namespace of the login, and its paths begin there. These functions do not call the server. This
module must not know tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final

from keyfold_server.domain.binding import Binding
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import AccessPolicy, AccessWanted, Statement
from keyfold_server.providers.vault.origins import Origin
from keyfold_server.providers.vault.uri import KeyUri, key_uri

_USES: Final = (("encrypt", "update"), ("decrypt", "update"), ("keys", "read"))
"""The operations below the mount, and the capability that each needs."""

_OWN: Final = (("auth/token/lookup-self", "read"), ("auth/token/renew-self", "update"))
"""What a token does with itself. Keyfold renews only a token that the operator gave it."""


def access_policy(key: RootKey, section: Origin, wanted: AccessWanted) -> AccessPolicy:
    """Returns what to attach; see the port.

    Args:
        key: The root key, in canonical form.
        section: The settings' section of the key's origin.
        wanted: Whom the policy is for.
    """
    parts = key_uri(key.uri)
    rules = [(_path(parts, section, operation), may) for operation, may in _USES]
    name = _name(parts)
    options = f"-address={parts.origin}"
    if section.namespace:
        options += f" -namespace={section.namespace}"
    bound = Binding(wanted.cluster or "", wanted.region or "", b"", wanted.organization)
    return AccessPolicy(
        principal=section.principal or "a token",
        bound_context=bound.as_map(),
        statements=(
            Statement(
                f"Policy, in a file {name}.hcl",
                f"policy {name}",
                "hcl",
                "\n".join(_rule(*each) for each in rules),
                # With the namespace, as errors name what is missing.
                tuple(f"{may} {parts.path(operation)}" for operation, may in _USES),
            ),
            Statement(
                "Writing the policy",
                f"policy {name}",
                "shell",
                f"bao policy write {options} {name} {name}.hcl",
                (),
            ),
            _given(section, name, options),
        ),
        notices=tuple(_notices(parts, section, name)),
    )


def _name(parts: KeyUri) -> str:
    """Returns a name that only this key's policy has: writing another's would replace that one."""
    told = f"keyfold-{parts.mount}-{parts.name}"
    # Names of policies are in lower case and have no slashes.
    name = told.replace("/", "-").lower()
    if name == told and "-" not in parts.mount + parts.name:
        return name
    return f"{name}-{hashlib.sha256(parts.path('keys').encode()).hexdigest()[:8]}"


def _path(parts: KeyUri, section: Origin, operation: str) -> str:
    """Returns an operation's path as seen from the namespace of the login."""
    above = f"{section.namespace}/" if section.namespace else ""
    return parts.path(operation).removeprefix(above)


def _rule(path: str, may: str) -> str:
    return f'path "{path}" {{\n  capabilities = ["{may}"]\n}}'


def _given(section: Origin, name: str, options: str) -> Statement:
    """Returns the statement that gives the policy to Keyfold's login."""
    role = section.principal
    if role is None:
        return Statement(
            "A token with the policy, for the credential of Keyfold's settings",
            "token",
            "shell",
            f"bao token create {options} -policy={name} -orphan -period=24h -field=token",
            (),
        )
    # Without its type, the server takes a JWT role for one of people who log in with a browser.
    kind = " role_type=jwt" if section.auth == "jwt" else ""
    return Statement(
        "The policy for the role",
        role,
        "shell",
        f"bao write {options} {role}{kind} token_policies={name}",
        (),
    )


def _notices(parts: KeyUri, section: Origin, name: str) -> Iterator[str]:
    yield "for HashiCorp's Vault, write vault in place of bao"
    above = section.namespace
    if above and not parts.mount.startswith(f"{above}/"):
        yield (
            f"Keyfold logs in to namespace {above}, but the key is not below it: no policy there "
            "can permit the key's use"
        )
    if section.principal is not None:
        yield (
            f"token_policies replaces the policies that {section.principal} has: write those that "
            f"it shall keep beside {name}, separated by commas"
        )
    needed = _OWN if section.principal is None else _OWN[:1]
    yield (
        "this relies on the policy default, which allows "
        f"{' and '.join(f'{may} {path}' for path, may in needed)}; to a token without it, give: "
        + " ".join(" ".join(_rule(*each).split()) for each in needed)
    )
    yield (
        "the policy does not demand the context; the server opens a ciphertext only with the "
        "context that wrapped it"
    )
