"""Puts an access policy in place, as the customer and the vendor do: to the letter.

What is malformed is refused, as AWS refuses it. What stood there for the same role and vendor is
gone after it, so that nothing is permitted besides.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from counterparts.aws_policy import Kind, check
from counterparts.aws_sts import Role, Sts, policy


class Attachable(Protocol):
    """A statement of an access policy, of the domain's or of the wire's."""

    @property
    def attach_to(self) -> str:
        """What it is attached to."""
        ...

    @property
    def text(self) -> str:
        """The policy, or a statement to add to one."""
        ...

    @property
    def by_vendor(self) -> bool:
        """Whether it is the vendor's to put in place."""
        ...


def attach(
    statements: Iterable[Attachable],
    *,
    sts: Sts,
    vendor: str,
    role: str,
    add_to_key: Callable[..., None],
) -> None:
    """Attaches statements, and ends the sessions that were begun before.

    Args:
        statements: What to attach.
        sts: Where roles and identities are.
        vendor: The ARN of the vendor's own identity.
        role: The ARN of the customer's role, or empty.
        add_to_key: Makes statements those of the key's policy, beside its administrators' one.

    Raises:
        ValueError: AWS would not take it.
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
            assert each.by_vendor == (each.attach_to == vendor)
            own[each.attach_to].append(document)
    sts.policies |= own
    if role:
        sts.roles[role] = Role(trust)
    add_to_key(*of_key)
    sts.expire_sessions()
