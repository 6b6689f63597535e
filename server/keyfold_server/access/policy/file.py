"""The policy file: from TOML text to a policy.

Invariant: Keyfold takes a file as a whole or not at all. It refuses whatever it does not
understand, with file, line and field, because a misspelt restriction would widen a grant. The
module knows nothing of callers and requests.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any, Final, TypeVar

from keyfold_server.access.policy.grants import (
    KEY_SEPARATORS,
    ROLES,
    Grant,
    KeyGrant,
    Role,
    caller_pattern,
)
from keyfold_server.access.policy.rights import NOBODY, Policy
from keyfold_server.domain.errors import SetupError
from keyfold_server.domain.keyspec import MAX_URI, PLATFORM
from keyfold_server.domain.patterns import Pattern, Patterns

_T = TypeVar("_T")

_AMBIENT: Final = "ambient"
_LOCAL: Final = "LOCAL"

_CALLER: Final = re.compile(r"\*|local|spiffe://.+|(?:uri|dns|socket):.+|jwt:.+#.+")
_NAME: Final = re.compile(r"[A-Za-z0-9*][A-Za-z0-9._*-]{0,127}")
_TYPE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_HAS_TOKEN: Final = re.compile(r"\*|jwt:.+")

_MAX_CLAIM: Final = 256
"""Characters of a claim's name, which may be a url."""

# Matches strings and comments only to step over them: text in one is not a header.
_TOKEN: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'|#[^\n]*"
    r"|^[ \t]*(?P<header>\[\[[ \t]*(?:grant|\"grant\"|'grant')[ \t]*\]\])",
    re.DOTALL | re.MULTILINE,
)

_WORDS: Final = {
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "a table",
}


class PolicyFileError(SetupError):
    """The policy file cannot be read, or Keyfold does not understand something in it."""


class _Table:
    """One table of the file, which makes the errors about its fields."""

    def __init__(self, where: str, path: str, values: dict[str, Any]) -> None:
        self.where = where
        self.path = path
        self.values = values

    def fault(self, field: str, what: str) -> PolicyFileError:
        # A quoted name in TOML may contain line breaks, and the message goes into one log line.
        name = field if field.isprintable() else repr(field)
        return PolicyFileError(f"{self.where}: {self.path}{name}: {what}")

    def only(self, *known: str) -> None:
        for field in self.values:
            if field not in known:
                raise self.fault(field, f"there is no such field; use {', '.join(known)}")

    def get(self, field: str, kind: type[_T], example: str) -> _T | None:
        """Returns a field's value, or None if the table does not have the field."""
        value = self.values.get(field)
        if value is None:
            return None
        if not isinstance(value, kind):
            is_ = _WORDS.get(type(value), "a date or time")
            raise self.fault(field, f"is {is_}; write {_WORDS[kind]}, such as {example}")
        if not value:
            raise self.fault(
                field,
                f"is empty, which grants nothing; leave it out, or write a value such as {example}",
            )
        return value

    def need(self, field: str, kind: type[_T], example: str) -> _T:
        value = self.get(field, kind, example)
        if value is None:
            raise self.fault(field, f"is missing; write a value such as {field} = {example}")
        return value

    def texts(self, field: str, example: str) -> Iterator[tuple[str, str]]:
        """Yields the strings of a list with their paths; nothing if the list is left out."""
        for index, text in enumerate(self.get(field, list, example) or ()):
            path = f"{field}[{index}]"
            if not isinstance(text, str):
                raise self.fault(path, f"is not a string; write strings, such as {example}")
            yield path, text

    def patterns(
        self, field: str, fits: re.Pattern[str], make: Callable[[str], Pattern], example: str
    ) -> Patterns | None:
        items = []
        for path, text in self.texts(field, example):
            self.check_pattern(path, text)
            if fits.fullmatch(text) is None:
                raise self.fault(
                    path, f"{text!r} cannot match anything; write a value such as {example}"
                )
            items.append(make(text))
        return Patterns(tuple(items)) if items else None

    def check_pattern(self, path: str, text: str) -> None:
        if not 1 <= len(text) <= MAX_URI or not text.isprintable():
            raise self.fault(path, f"must be 1 to {MAX_URI:,} printable characters")
        if "**" in text:
            raise self.fault(path, f"{text!r} has two stars in a row; write one *")

    def strings(self, field: str, example: str) -> dict[str, str]:
        """Returns a table of strings; empty if the table is left out."""
        table = self.get(field, dict, example) or {}
        for name, value in table.items():
            if not name or not isinstance(value, str):
                raise self.fault(
                    f"{field}.{name}", f"must be a name with a string, such as {example}"
                )
        return table


def parse(text: str, file: str) -> Policy:
    """Reads a policy.

    Args:
        text: The file's contents.
        file: Its path, for messages.

    Raises:
        PolicyFileError: Keyfold does not understand something in the file. The message names the
            file, line and field, and says what to do.
    """
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise PolicyFileError(f"{file}: is nested too deeply; write grants as [[grant]]") from None
    except ValueError as error:
        what, _, at = str(error).partition(" (at line ")
        line = f":{at.partition(',')[0]}" if at else ""
        raise PolicyFileError(f"{file}{line}: is not TOML: {what}; correct this line") from None
    top = _Table(file, "", values)
    top.only("grant", "on_behalf_of")
    tables = top.get("grant", list, "[[grant]]")
    if tables is None:
        raise top.fault("grant", "nobody may do anything; write at least one [[grant]]")
    lines = _header_lines(text)
    # Without one header for each grant, the lines cannot be matched to the grants.
    known = len(lines) == len(tables)
    grants = []
    for number, table in enumerate(tables, 1):
        where = f"{file}:{lines[number - 1]}" if known else f"{file}, grant {number}"
        if not isinstance(table, dict):
            raise PolicyFileError(f"{where}: is not a table; write grants as [[grant]]")
        grants.append(_grant(_Table(where, "", table)))
    believed = top.patterns("on_behalf_of", _CALLER, caller_pattern, '["spiffe://td/ns/web/sa/a"]')
    return Policy(tuple(grants), believed or NOBODY)


def _header_lines(text: str) -> list[int]:
    """Returns the line numbers of the `[[grant]]` headers in a valid TOML text."""
    return [
        text.count("\n", 0, token.start("header")) + 1
        for token in _TOKEN.finditer(text)
        if token["header"]
    ]


def _grant(table: _Table) -> Grant:
    table.only(
        "callers",
        "roles",
        "clusters",
        "organizations",
        "organization_claim",
        "regions",
        "context",
        "keys",
    )
    table.need("callers", list, '["spiffe://td/ns/*/sa/app"]')
    table.need("roles", list, '["crypto"]')
    callers = table.patterns("callers", _CALLER, caller_pattern, '["dns:app.internal", "local"]')
    roles: set[Role] = set()
    for path, word in table.texts("roles", '["crypto"]'):
        if word not in ROLES:
            raise table.fault(path, f"there is no role {word!r}; use one of {', '.join(ROLES)}")
        roles |= ROLES[word]
    context = table.strings("context", '{ app = "billing" }')
    if context and roles.isdisjoint(ROLES["crypto"]):
        raise table.fault(
            "context", "narrows only the role crypto; add that role, or leave the context out"
        )
    keys = tuple(_keys(table))
    if keys and Role.OPERATOR not in roles:
        raise table.fault(
            "keys", "are only for the role operator; add that role, or leave the keys out"
        )
    return Grant(
        table.where,
        callers or NOBODY,
        frozenset(roles),
        _unless_all(table.patterns("clusters", _NAME, Pattern, '["prod-*"]')),
        table.patterns("organizations", _NAME, Pattern, '["acme"]'),
        _unless_all(table.patterns("regions", _NAME, Pattern, '["eu-*"]')),
        MappingProxyType(context) if context else None,
        keys,
        _organization_claim(table, roles),
    )


def _organization_claim(table: _Table, roles: set[Role]) -> str | None:
    claim = table.get("organization_claim", str, '"org"')
    if claim is None:
        return None
    if len(claim) > _MAX_CLAIM or not claim.isprintable():
        raise table.fault("organization_claim", f"must be 1 to {_MAX_CLAIM} printable characters")
    for path, text in table.texts("callers", '["jwt:https://idp.example.org#*"]'):
        if _HAS_TOKEN.fullmatch(text) is None:
            raise table.fault(
                path,
                f"{text!r} has no token, and so no claim {claim}; write callers with a token, such "
                "as jwt:ISSUER#*, or leave organization_claim out",
            )
    if Role.ADMIN in roles:
        raise table.fault(
            "roles",
            "admin sets the limits of an organization, and its own administrator must not lift "
            "them; with organization_claim write the other roles, such as operator and auditor",
        )
    return claim


def _unless_all(patterns: Patterns | None) -> Patterns | None:
    """Returns None for patterns that match everything, because one of them is `*`."""
    if patterns is None or any(pattern.text == "*" for pattern in patterns.items):
        return None
    return patterns


def _keys(table: _Table) -> Iterator[KeyGrant]:
    for index, values in enumerate(table.get("keys", list, '[{ type = "LOCAL" }]') or ()):
        path = f"keys[{index}]"
        if not isinstance(values, dict):
            raise table.fault(
                path, 'is not a table; write { type = "…", uri = "…", principal = "…" }'
            )
        yield _key(_Table(table.where, f"{path}.", values))


def _key(table: _Table) -> KeyGrant:
    table.only("type", "uri", "principal", "options")
    type_ = table.need("type", str, '"AWS_KMS"')
    if _TYPE.fullmatch(type_) is None:
        raise table.fault(
            "type", f"{type_!r} is not a type; write the exact name of a type, such as AWS_KMS"
        )
    # For these two types the server itself knows the principal; there is nothing to choose.
    without = {PLATFORM: ("uri", "principal", "options"), _LOCAL: ("principal", "options")}
    for field in without.get(type_, ()):
        if field in table.values:
            raise table.fault(field, f"a {type_} key does not have this field; leave it out")
    if type_ == PLATFORM:
        return KeyGrant(type_)
    read = table.get if type_ == _LOCAL else table.need
    uri = read("uri", str, '"arn:aws:kms:eu-west-1:111122223333:key/*"')
    if uri is not None:
        table.check_pattern("uri", uri)
        if uri == "*":
            raise table.fault(
                "uri", "a * stays within one segment; write the other segments of the uri, too"
            )
    if type_ == _LOCAL:
        return KeyGrant(type_, _key_pattern(uri))
    principal = table.need(
        "principal", str, f'"{_AMBIENT}" for the server\'s own, or the name of another'
    )
    table.check_pattern("principal", principal)
    options = tuple(sorted(table.strings("options", '{ name = "value" }').items()))
    as_whom = None if principal == _AMBIENT else _key_pattern(principal)
    return KeyGrant(type_, _key_pattern(uri), as_whom, options)


def _key_pattern(text: str | None) -> Pattern | None:
    return None if text is None else Pattern(text, KEY_SEPARATORS)
