"""Denials of AWS, and whose policy they come from, by the words that AWS uses for each kind.

    the VPC endpoint's policy        Keyfold's own side, since the endpoint is in Keyfold's network
    a policy of the caller           the customer's if the caller is their role, else Keyfold's own
    the key's policy                 the customer's; it may tell clusters apart by their context
    the organization's policies      the customer's

Invariant: AWS does not say whether a policy lacks an action or demands another context. So a
message names both, and never asks for an action alone where the context may be what denies.

https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from botocore.exceptions import ClientError

from keyfold_server.domain.errors import AccessDeniedError, CredentialsFailedError, KmsError
from keyfold_server.providers.aws.answers import code, request_id, text

_DENIED: Final = frozenset({"AccessDenied", "AccessDeniedException"})

_ENDPOINT: Final = re.compile(r"(?:no|in a) VPC endpoint policy")

_OURS: Final = re.compile(
    r"no identity-based policy|in an? (?:identity-based|service control|session) policy"
    rf"|permissions boundary|no (?:service control|session) policy|{_ENDPOINT.pattern}"
)
"""The words with which AWS says that the caller's own policies deny, not the resource's."""

_CALLER: Final = re.compile(r"User: arn:[a-z-]{1,32}:(?:iam|sts)::([0-9]{12}):")
"""The words with which AWS names the caller's account."""

_ORGANIZATION: Final = re.compile(r"(?:service|resource) control policy")
_EXPLICIT: Final = "explicit deny in a resource-based policy"
_KEY_POLICY: Final = "no resource-based polic"
_OWN_POLICY: Final = "no identity-based policy"
_OR_MISSING: Final = "resource does not exist"
"""AWS's words to a caller of another account, whom it does not tell whether a key exists."""


def denied(error: ClientError) -> bool:
    """Says whether AWS accepted the credential and denied the call."""
    return code(error) in _DENIED


def blames_the_caller(error: ClientError) -> bool:
    """Says whether the caller's own policies deny the call, and not the other account's."""
    return _OURS.search(text(error)) is not None


def denied_by_our_own_account(error: Exception, account: str) -> bool:
    """Says whether Keyfold's own policies deny a call that it made as the server itself.

    If key and caller share an account, AWS may use the same words for the key's policy. Then the
    denial counts as the key's, so that it takes effect at once when the customer takes the
    permission away there.

    Args:
        error: The error that the call raised.
        account: The key's account.
    """
    if not isinstance(error, ClientError) or not denied(error) or not blames_the_caller(error):
        return False
    caller = _CALLER.search(text(error))
    return caller is not None and caller[1] != account


def denial(
    error: ClientError, operation: str, key: str, principal: str, context: Mapping[str, str] | None
) -> KmsError:
    """Returns what a denial means.

    Args:
        error: The denial.
        operation: AWS's name of the operation, such as `kms:Decrypt`.
        key: The ARN of the key, or of the role, that the call was about.
        principal: The role that made the call; empty if it was the server's own identity.
        context: The encryption context of the call, or None if the operation carries none.
    """
    said, id_ = text(error), request_id(error.response)
    if _ENDPOINT.search(said):
        return CredentialsFailedError(
            f"the policy of the VPC endpoint through which Keyfold calls AWS denies {operation} on "
            f"{key}; allow it in the endpoint's policy",
            provider_request_id=id_,
            missing_permission=operation,
        )
    return AccessDeniedError(
        _message(said, operation, key, principal or "the server's own identity", context),
        provider_request_id=id_,
        missing_permission=operation,
    )


def _message(
    said: str, operation: str, key: str, who: str, context: Mapping[str, str] | None
) -> str:
    if _EXPLICIT in said:
        under = f" under the context {_pairs(context)}" if context else ""
        return (
            f"a statement of the key's policy with the effect Deny forbids {who} {operation} on "
            f"{key}{under}; except this use from it"
        )
    if _ORGANIZATION.search(said):
        return (
            f"a policy of the customer's AWS organization denies {who} {operation} on {key}; allow "
            "it there"
        )
    caller = _CALLER.search(said)
    is_elsewhere = caller is not None and f":{caller[1]}:" not in key
    if _OWN_POLICY in said and is_elsewhere:
        return (
            f"the permissions policy of {who} does not allow {operation} on {key}; allow it there"
        )
    if context is None or not (_KEY_POLICY in said or _OWN_POLICY in said):
        return f"AWS denies {operation} on {key}"
    missing = "the key does not exist in its region, or " if _OR_MISSING in said else ""
    if not context:
        return (
            f"{missing}the key's policy does not allow {operation} on {key} as {who} without a "
            "context; if the policy demands a cluster or a region, name them in the request"
        )
    return (
        f"{missing}the key's policy does not allow this cluster or region (context "
        f"{_pairs(context)}) {operation} on {key} as {who}; add what GetAccessPolicy answers for "
        "this cluster and region"
    )


def _pairs(context: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in context.items())
