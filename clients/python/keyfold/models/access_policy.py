"""The access that a customer grants so that Keyfold may use a root key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from keyfold.models.answer import Answer
from keyfold.v1 import key_management_service_pb2 as api


@dataclass(frozen=True, slots=True)
class AccessStatement(Answer):
    """One policy or command that the customer, or the vendor, puts in place.

    Attributes:
        title: A headline for people.
        attach_to: The object to attach it to, such as the key's uri or a role's name.
        language: The language of the text: `json`, `hcl` or `shell`.
        text: The statement itself, ready to use.
        permissions: The permissions that it grants, by the provider's own names.
        by_vendor: Whether the vendor puts it in place, and not the customer.
    """

    title: str
    attach_to: str
    language: str
    text: str
    permissions: tuple[str, ...]
    by_vendor: bool

    @classmethod
    def from_message(cls, message: api.AccessStatement) -> AccessStatement:
        """Reads the protobuf message."""
        return cls(
            message.title,
            message.attach_to,
            message.language,
            message.text,
            tuple(message.permissions),
            message.by_vendor,
        )


@dataclass(frozen=True, slots=True)
class AccessPolicy(Answer):
    """The result of `get_access_policy`.

    Attributes:
        principal: The identity that Keyfold calls the KMS as, in the provider's own form.
        external_id: The id that the customer's trust policy requires Keyfold to present; empty
            if the provider has no external ids.
        bound_context: The names and values that Keyfold binds to each use of the key, and that a
            policy may require.
        statements: The statements to put in place, in this order. Keyfold needs all of them.
        notices: Further facts that an operator should know, one line each.
        seats: The names of the seats that the statements are for, in the order in which Keyfold
            takes them; empty if the key spec asks for none.
    """

    principal: str
    external_id: str
    bound_context: Mapping[str, str] = field(hash=False)
    statements: tuple[AccessStatement, ...]
    notices: tuple[str, ...]
    seats: tuple[str, ...] = ()

    @classmethod
    def from_message(cls, message: api.GetAccessPolicyResponse) -> AccessPolicy:
        """Reads the protobuf message."""
        return cls(
            message.principal,
            message.external_id,
            dict(message.bound_context),
            tuple(map(AccessStatement.from_message, message.statements)),
            tuple(message.notices),
            tuple(message.seats),
        )
