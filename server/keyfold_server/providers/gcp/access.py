"""What lets Keyfold use one key of Cloud KMS, and no more: custom roles and their bindings.

Invariant: the permissions here are those that the adapter and its impersonation need, each bound on
the key or the service account itself. A value that Keyfold does not know is left open as `<…>`,
which is not a name for Google, and a notice says so. These functions do not call Google. This
module must not know credentials.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from keyfold_server.domain.binding import Binding
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import AccessPolicy, AccessWanted, Statement
from keyfold_server.providers.gcp.errors import DECRYPT, DELEGATE, ENCRYPT, GET, IMPERSONATE
from keyfold_server.providers.gcp.uri import check_account, delegates, project

_UNKNOWN: Final = "<email of the service account of Keyfold>"
_OF_ACCOUNTS: Final = ".iam.gserviceaccount.com"
_FEDERATED: Final = re.compile(r"principal://iam\.googleapis\.com/[A-Za-z0-9._~:@/-]{1,1000}")


@dataclass(frozen=True, slots=True)
class _Role:
    """A custom role.

    Attributes:
        id: The id of the role in a project.
        title: The role's name, for people.
        permissions: The permissions that it contains.
    """

    id: str
    title: str
    permissions: tuple[str, ...]

    def create(self, where: str) -> str:
        """Returns the command that creates the role in a project."""
        return (
            f"gcloud iam roles create {self.id} --project={shlex.quote(where)} \\\n"
            f"  --title={shlex.quote(self.title)} --stage=GA \\\n"
            f"  --permissions={','.join(self.permissions)}"
        )

    def granted(self, where: str, member: str) -> str:
        """Returns the options that give a project's role to a member."""
        name = shlex.quote(f"projects/{where}/roles/{self.id}")
        return f"--member={shlex.quote(member)} \\\n  --role={name}"


_KEY_USER: Final = _Role("keyfoldKeyUser", "Keyfold key user", (ENCRYPT, DECRYPT, GET))
_TOKEN_USER: Final = _Role("keyfoldTokenUser", "Keyfold token user", (IMPERSONATE,))
_DELEGATE: Final = _Role("keyfoldDelegate", "Keyfold delegate user", (DELEGATE,))


def check_own(principal: str) -> bool:
    """Says whether the settings may name Keyfold's own identity so.

    They may give a service account's email or a federated identity,
    `principal://iam.googleapis.com/…`.
    """
    return check_account(principal) or _FEDERATED.fullmatch(principal) is not None


def access_policy(key: RootKey, own: str | None, wanted: AccessWanted) -> AccessPolicy:
    """Returns what to attach; see the port.

    Args:
        key: The root key, in canonical form.
        own: Keyfold's own identity, or None if the settings do not name it.
        wanted: Whom the policy is for.
    """
    itself = own or _UNKNOWN
    caller = key.principal or itself
    roles = [(_KEY_USER, project(key.uri))]
    also = wanted.seat.also if wanted.seat is not None else ()
    bindings = [_on_key(key, each) for each in (caller, *also)]
    if key.principal:
        links = list(pairwise([itself, *delegates(key), key.principal]))
        for source, target in links:
            # A delegate only passes the request on, and need not be able to act as the account.
            role = _TOKEN_USER if target == key.principal else _DELEGATE
            roles.append((role, _project(target)))
            bindings.append(_on_account(role, source, target, own))
    bound = Binding(wanted.cluster or "", wanted.region or "", b"", wanted.organization)
    return AccessPolicy(
        principal=caller,
        bound_context=bound.as_map(),
        statements=(*_created(roles, own), *bindings),
        notices=tuple(_notices(key, own, [where for _, where in roles])),
    )


def _created(roles: list[tuple[_Role, str]], own: str | None) -> Iterator[Statement]:
    for role, where in dict.fromkeys(roles):
        yield Statement(
            f"Custom role {role.id}, once in the project",
            f"project {where}",
            "shell",
            role.create(where),
            role.permissions,
            by_vendor=_is_vendors(where, own),
        )


def _on_key(key: RootKey, caller: str) -> Statement:
    _, where, _, location, _, ring, _, name = key.uri.split("/")
    return Statement(
        "Binding of the role on the key",
        key.uri,
        "shell",
        (
            f"gcloud kms keys add-iam-policy-binding {name} --project={where} \\\n"
            f"  --location={location} --keyring={ring} \\\n"
            f"  {_KEY_USER.granted(where, _member(caller))}"
        ),
        _KEY_USER.permissions,
    )


def _on_account(role: _Role, source: str, target: str, own: str | None) -> Statement:
    where = _project(target)
    return Statement(
        f"Binding of the role on service account {target}",
        target,
        "shell",
        (
            f"gcloud iam service-accounts add-iam-policy-binding {target} \\\n"
            f"  --project={shlex.quote(where)} \\\n"
            f"  {role.granted(where, _member(source))}"
        ),
        role.permissions,
        by_vendor=_is_vendors(where, own),
    )


def _member(identity: str) -> str:
    return identity if identity.startswith("principal://") else f"serviceAccount:{identity}"


def _project(account: str) -> str:
    """Returns the id of a service account's project, which most emails contain."""
    _, _, domain = account.partition("@")
    if not domain.endswith(_OF_ACCOUNTS):
        return f"<project of {account}>"
    # A project of an organization's own domain: NAME.example.com stands for example.com:NAME.
    name, _, organization = domain.removesuffix(_OF_ACCOUNTS).partition(".")
    return f"{organization}:{name}" if organization else name


def _is_vendors(where: str, own: str | None) -> bool:
    return own is not None and _project(own) == where


def _notices(key: RootKey, own: str | None, projects: list[str]) -> Iterator[str]:
    if own is None:
        yield (
            "the settings do not name Keyfold's own identity: write it in place of "
            f"{_UNKNOWN}, or set principal in [providers.gcp]"
        )
    for where in dict.fromkeys(projects):
        if where.startswith("<"):
            yield f"write the project's id in place of {where}"
    if key.principal:
        yield (
            "roles/iam.serviceAccountTokenCreator in place of a custom role would let "
            "Keyfold sign as the service account, too"
        )
        yield (
            "Keyfold's own project must have the IAM Service Account Credentials API "
            "(iamcredentials.googleapis.com) enabled"
        )
    yield (
        f"the project of {key.principal or 'Keyfold itself'} must have the Cloud KMS API "
        "(cloudkms.googleapis.com) enabled; leave out the custom roles that a project already has"
    )
    yield (
        "no binding can demand a context; Cloud KMS opens a ciphertext only with the context that "
        "wrapped it"
    )
