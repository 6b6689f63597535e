"""Puts exactly an access policy in place, as the customer and the vendor do.

It refuses what AWS refuses as malformed. It removes what was in place before for the same role and
vendor, so that the new policy alone permits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from counterparts.aws_policy import Kind, check
from counterparts.aws_sts import Role, Sts, policy


class Attachable(Protocol):
    """A statement of an access policy, from the domain or from the wire."""

    @property
    def attach_to(self) -> str:
        """The thing that the statement is attached to."""
        ...

    @property
    def text(self) -> str:
        """The policy, or a statement to add to one."""
        ...

    @property
    def by_vendor(self) -> bool:
        """Whether the vendor puts it in place."""
        ...


def attach(
    statements: Iterable[Attachable],
    *,
    sts: Sts,
    vendor: str,
    role: str,
    add_to_key: Callable[..., None],
) -> None:
    """Attaches statements, and ends the sessions that began before.

    Args:
        statements: The statements to attach.
        sts: The roles and identities.
        vendor: The ARN of the vendor's own identity.
        role: The ARN of the customer's role, or empty.
        add_to_key: Function that sets statements of the key's policy, beside its administrators'.

    Raises:
        ValueError: AWS would not accept a statement.
    """
    of_key: list[dict[str, Any]] = []
    trust = policy()
    own: dict[str, list[Any]] = {vendor: []} | ({role: []} if role else {})
    for each in statements:
        document = json.loads(each.text)
        if each.attach_to.split(":")[2] == "kms":
            check(Kind.KEY, policy(document))
            of_key.append(document)
        elif any("Principal" in one for one in document.get("Statement", ())):
            check(Kind.TRUST, document)
            assert each.attach_to == role
            trust = document
        else:
            check(Kind.IDENTITY, document)
            # A seat's role is in the account of the vendor.
            assert each.by_vendor == (_account(each.attach_to) == _account(vendor))
            own[each.attach_to].append(document)
    sts.policies |= own
    if role:
        sts.roles[role] = Role(trust)
    add_to_key(*of_key)
    sts.expire_sessions()


def _account(arn: str) -> str:
    return arn.split(":")[4]
