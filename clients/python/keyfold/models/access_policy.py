"""What a customer puts in place so that Keyfold may use a root key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keyfold.v1 import key_management_service_pb2 as api


@dataclass(frozen=True, slots=True)
class AccessStatement:
    """One thing that the customer, or the vendor, puts in place.

    Attributes:
        title: What it is, for people.
        attach_to: Where it is attached, such as the key's uri or a role's name.
        language: How the text is written: `json`, `hcl` or `shell`.
        text: Ready to be used.
        permissions: What it permits, as the provider writes it.
        by_vendor: It is the vendor's to put in place, not the customer's.
    """

    title: str
    attach_to: str
    language: str
    text: str
    permissions: tuple[str, ...]
    by_vendor: bool

    @classmethod
    def from_message(cls, message: api.AccessStatement) -> AccessStatement:
        """Reads the contract's form."""
        return cls(
            message.title,
            message.attach_to,
            message.language,
            message.text,
            tuple(message.permissions),
            message.by_vendor,
        )


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Answer of `get_access_policy`.

    Attributes:
        principal: As whom Keyfold calls the key, as the provider writes it.
        external_id: What the customer's trust policy demands of Keyfold; empty where the
            provider has no such thing.
        bound_context: What is bound to each use, by the names that a policy may demand.
        statements: What to put in place, in this order. Every line of it is needed.
        notices: What an operator should know besides, one line each.
    """

    principal: str
    external_id: str
    bound_context: Mapping[str, str] = field(hash=False)
    statements: tuple[AccessStatement, ...]
    notices: tuple[str, ...]

    @classmethod
    def from_message(cls, message: api.GetAccessPolicyResponse) -> AccessPolicy:
        """Reads the contract's form."""
        return cls(
            message.principal,
            message.external_id,
            dict(message.bound_context),
            tuple(map(AccessStatement.from_message, message.statements)),
            tuple(message.notices),
        )
