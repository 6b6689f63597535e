"""What lets Keyfold use one key of AWS KMS, and no more: policies of the key, its role, the vendor.

Invariant: the actions here are those that the adapter calls, on that one key and as that one
principal, and every line is needed. A role never trusts Keyfold without the external id (protocol
C2). A value that Keyfold does not know is left open as `<…>`, which AWS does not accept as a
principal, and a notice says so. These functions do not call AWS. This module must not know
credentials.

If caller and key are in different accounts, AWS demands a policy of each side. If they share an
account, the key's policy is enough if it names the caller.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from keyfold_server.domain.binding import Binding
from keyfold_server.domain.errors import InvalidKeySpecError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.provider import AccessPolicy, AccessWanted, Statement
from keyfold_server.domain.seats import Seat
from keyfold_server.providers.aws.principals import issued_external_id
from keyfold_server.providers.aws.uri import KeyArn, identity, key_arn

_USES: Final = ("kms:Encrypt", "kms:Decrypt")
_DESCRIBES: Final = "kms:DescribeKey"
_TAKES: Final = "sts:AssumeRole"
_VERSION: Final = "2012-10-17"

UNTOLD: Final = "<ARN of Keyfold's own AWS identity>"
"""Stands for the server's own identity if the settings do not name it."""


_OWN: Final = "Permissions policy of Keyfold's own identity"

_ADD: Final = (
    "add the key's statements to the policy that the key already has, where Resource * is that key "
    "alone; if they replaced that policy, the key's administrators would be locked out"
)
_FIRST: Final = (
    "create {} before the key's policy names it: AWS refuses a policy with a principal that does "
    "not exist; after you delete and create it anew, write it into the policy again"
)
_BOTH: Final = (
    "the role and the key are in different accounts, so the role's own permissions must name the "
    "key, too"
)
_ONE: Final = (
    "the role needs no permissions of its own: it is in the key's account, and the key's policy "
    "names it"
)


@dataclass(frozen=True, slots=True)
class _Site:
    """Who calls which key.

    Attributes:
        key: The root key.
        arn: The parts of the key's ARN.
        vendor: The server's own identity, or `UNTOLD`.
        bound: The encryption context that a policy may demand.
        seat: The seat that the caller is, or None.
    """

    key: RootKey
    arn: KeyArn
    vendor: str
    bound: dict[str, str]
    seat: Seat | None = None

    @property
    def caller(self) -> str:
        """The identity that uses the key."""
        return self.key.principal or self.vendor

    @property
    def users(self) -> str | list[str]:
        """The identities that the key's policy names."""
        if self.seat is None or not self.seat.also:
            return self.caller
        return [self.caller, *self.seat.also]

    @property
    def caller_is_elsewhere(self) -> bool:
        """Whether the caller's own policies must permit the use, too."""
        return _account(self.caller) != self.arn.account

    @property
    def vendor_is_elsewhere(self) -> bool:
        """Whether the vendor's own policies must permit assuming the role.

        They must if Keyfold does not know the vendor's account.
        """
        return _account(self.vendor) != _account(self.key.principal)


def access_policy(key: RootKey, wanted: AccessWanted, own: str | None) -> AccessPolicy:
    """Returns what to attach; see the port.

    Args:
        key: The root key, in canonical form, with its external id if it has a role.
        wanted: Whom the policy is for.
        own: The ARN of the server's own identity, or None if the settings do not name it.

    Raises:
        InvalidKeySpecError: The server's own identity is in another partition than the key.
        CredentialsFailedError: The key has a role, but no external id.
    """
    arn = key_arn(key.uri)
    found = None if own is None else identity(own)
    if found is not None and found.partition != arn.partition:
        raise InvalidKeySpecError(
            f"the server's own AWS identity is in partition {found.partition} and the key in "
            f"{arn.partition}; no identity reaches across partitions",
            field="key_spec.uri",
        )
    bound = Binding(wanted.cluster or "", wanted.region or "", b"", wanted.organization).as_map()
    site = _Site(key, arn, own or UNTOLD, bound, wanted.seat)
    role = (_trust(site),) if key.principal else ()
    statements = (*role, *_callers(site), *_keys(site), *_vendors(site))
    return AccessPolicy(site.caller, bound, statements, tuple(_notices(site)))


def _trust(site: _Site) -> Statement:
    """Returns the role's trust policy."""
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": site.vendor},
        "Action": _TAKES,
        "Condition": {"StringEquals": {"sts:ExternalId": issued_external_id(site.key)}},
    }
    return Statement(
        "Trust policy of the role",
        site.key.principal,
        "json",
        _document(statement),
        (_TAKES,),
        by_vendor=site.seat is not None,
    )


def _callers(site: _Site) -> tuple[Statement, ...]:
    """Returns the permissions policy of a role that is not in the key's account."""
    if not site.key.principal or not site.caller_is_elsewhere:
        return ()
    by_vendor = site.seat is not None
    return (_uses_key(site, "Permissions policy of the role", by_vendor=by_vendor),)


def _keys(site: _Site) -> tuple[Statement, ...]:
    """Returns the statements to add to the key's own policy."""
    by = {"Effect": "Allow", "Principal": {"AWS": site.users}}
    # In a key's policy, this stands for the key that the policy belongs to, and nothing else.
    on = {"Resource": "*"}
    uses: dict[str, Any] = {**by, "Action": list(_USES), **on}
    if site.bound:
        demanded = {f"kms:EncryptionContext:{name}": value for name, value in site.bound.items()}
        uses["Condition"] = {"StringEquals": demanded}
    describes = {**by, "Action": _DESCRIBES, **on}
    return (
        Statement(
            "Statement in the key's policy, to wrap and unwrap",
            site.key.uri,
            "json",
            json.dumps(uses, indent=2),
            _USES,
        ),
        Statement(
            "Statement in the key's policy, to describe it",
            site.key.uri,
            "json",
            json.dumps(describes, indent=2),
            (_DESCRIBES,),
        ),
    )


def _vendors(site: _Site) -> tuple[Statement, ...]:
    """Returns what the vendor must permit its own identity, if the customer's policies do not."""
    if not site.key.principal:
        return (_uses_key(site, _OWN, by_vendor=True),) if site.caller_is_elsewhere else ()
    if not site.vendor_is_elsewhere:
        return ()
    takes = {"Effect": "Allow", "Action": _TAKES, "Resource": site.key.principal}
    return (Statement(_OWN, site.vendor, "json", _document(takes), (_TAKES,), by_vendor=True),)


def _uses_key(site: _Site, title: str, *, by_vendor: bool = False) -> Statement:
    """Returns the caller's own permissions; the key's policy is what demands a context."""
    every = (*_USES, _DESCRIBES)
    uses = {"Effect": "Allow", "Action": list(every), "Resource": site.key.uri}
    return Statement(title, site.caller, "json", _document(uses), every, by_vendor)


def _notices(site: _Site) -> list[str]:
    who = "the role" if site.key.principal else "the identity"
    notices = [_ADD, _FIRST.format(who)]
    if site.vendor == UNTOLD:
        notices.append(
            "the settings do not name the server's own AWS identity: set [providers.aws] principal "
            f"to its ARN and ask again, or write the ARN in place of {UNTOLD}",
        )
    if site.bound:
        names = ", ".join(each.partition(":")[2] for each in site.bound)
        notices.append(
            f"each use must carry this {names}: name the same in Enable and in TestKey, or AWS "
            f"denies {' and '.join(_USES)}; {_DESCRIBES} carries no context, so it has a statement "
            "of its own, without that condition"
        )
    if site.key.principal:
        notices.append(_BOTH if site.caller_is_elsewhere else _ONE)
    if site.arn.is_multi_region:
        besides = " and name it in the permissions policy, too" if site.caller_is_elsewhere else ""
        notices.append(
            "each replica of a multi-Region key has a policy of its own: ask for the access policy "
            f"of each replica that you use, and add its statements there{besides}"
        )
    return notices


def _document(statement: dict[str, Any]) -> str:
    """Returns a policy of one statement."""
    return json.dumps({"Version": _VERSION, "Statement": [statement]}, indent=2)


def _account(arn: str) -> str:
    """Returns the account of an identity, empty if the identity is not known."""
    found = identity(arn)
    return "" if found is None else found.account
