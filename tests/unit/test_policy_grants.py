"""Patterns, key tuples and the table of methods: what one grant can say."""

from __future__ import annotations

from functools import lru_cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyfold_server.access.policy.grants import (
    KEY_SEPARATORS,
    ROLES,
    RULES,
    KeyGrant,
    Role,
    caller_pattern,
    rule,
)
from keyfold_server.domain.errors import NotAllowedError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.patterns import Pattern

_TEXTS = st.text("ab/:", max_size=12)
_PATTERNS = st.text("ab/:*", max_size=8)


def _naive(pattern: str, text: str, separators: str) -> bool:
    """Tries every length for every star."""

    @lru_cache
    def fits(p: int, t: int) -> bool:
        if p == len(pattern):
            return t == len(text)
        if pattern[p] == "*":
            stays = t < len(text) and text[t] not in separators
            return fits(p + 1, t) or (stays and fits(p, t + 1))
        return t < len(text) and pattern[p] == text[t] and fits(p + 1, t + 1)

    return fits(0, 0)


@given(_PATTERNS, _TEXTS, st.sampled_from(["", "/", "/:"]))
@example("a*a", "a", "")
@example("a*ba*a", "aba", "")
@example("*", "", "/")
@example("*/*", "/", "/")
def test_a_pattern_matches_as_trying_everything_does(
    pattern: str, text: str, separators: str
) -> None:
    """Matching agrees with a model that tries every length for every star."""
    assert Pattern(pattern, separators).matches(text) == _naive(pattern, text, separators)


def test_a_pattern_full_of_stars_is_decided() -> None:
    """Many stars against a long text that almost fits take little time."""
    assert not Pattern("*a" * 500 + "*b").matches("a" * 100_000)
    assert Pattern("*a" * 500 + "*").matches("a" * 100_000)


@pytest.mark.parametrize("character", [".", "?", "[a]", "\\", "+", "(", "^", "$"])
def test_only_the_star_is_special(character: str) -> None:
    """Every other character stands for itself: the file has no regular expressions."""
    assert Pattern(f"a{character}*").matches(f"a{character}b")
    assert not Pattern(f"a{character}*").matches("axb")


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("spiffe://td/ns/*/sa/app", "spiffe://td/ns/web/sa/app", "spiffe://td/ns/a/b/sa/app"),
        ("spiffe://td/ns/*/sa/app", "spiffe://td/ns/web/sa/app", "spiffe://td/ns/web/sa/app2"),
        ("spiffe://td/*", "spiffe://td/web", "spiffe://td/web/admin"),
        ("spiffe://td/*", "spiffe://td/web", "spiffe://td.evil/web"),
        ("dns:*.example.org", "dns:a.example.org", "dns:b.a.example.org"),
        ("dns:app*", "dns:app-1", "dns:app.evil.example"),
        ("jwt:https://idp#system:*:app", "jwt:https://idp#system:ns:app", "jwt:https://idp#s:app"),
        ("jwt:https://idp#*", "jwt:https://idp#me", "jwt:https://idp#system:me"),
        ("jwt:https://*#me", "jwt:https://idp#me", "jwt:https://idp#you#me"),
        ("socket:/run/*.sock", "socket:/run/a.sock", "socket:/run/a/b.sock"),
        ("local", "local", "localhost"),
        ("dns:*", "dns:host", "local"),
    ],
)
def test_a_star_in_a_caller_stays_within_its_segment(
    pattern: str, matching: str, other: str
) -> None:
    """`*` does not match `/`, `:` or `#`, nor a dot in a DNS name."""
    assert caller_pattern(pattern).matches(matching)
    assert not caller_pattern(pattern).matches(other)


@given(st.text(max_size=40))
def test_a_star_alone_is_every_caller(name: str) -> None:
    """`callers = ["*"]` names everybody whom the transport lets in."""
    assert caller_pattern("*").matches(name)


@pytest.mark.parametrize(
    ("pattern", "uri", "fits"),
    [
        ("arn:aws:kms:*:1:key/*", "arn:aws:kms:eu-west-1:1:key/mrk-1", True),
        ("arn:aws:kms:*:1:key/*", "arn:aws:kms:eu-west-1:2:key/mrk-1", False),
        ("arn:aws:kms:*", "arn:aws:kms:eu-west-1:1:key/mrk-1", False),
        ("arn:aws:kms:*:key/*", "arn:aws:kms:eu-west-1:1:key/mrk-1", False),
        ("https://v.vault.azure.net/keys/*", "https://v.vault.azure.net/keys/k", True),
        ("https://v.vault.azure.net/keys/*", "https://v.vault.azure.net/keys/k/1", False),
        ("https://*/keys/k", "https://h:8200/keys/k", False),
    ],
)
def test_a_star_in_a_key_stays_within_its_segment(pattern: str, uri: str, fits: bool) -> None:  # noqa: FBT001
    """`*` does not match `/` or `:` in the canonical uri."""
    assert KeyGrant("T", Pattern(pattern, KEY_SEPARATORS)).matches(RootKey("T", uri)) is fits


def _key_grant(principal: str | None, **options: str) -> KeyGrant:
    as_whom = None if principal is None else Pattern(principal, KEY_SEPARATORS)
    return KeyGrant("T", Pattern("k", KEY_SEPARATORS), as_whom, tuple(sorted(options.items())))


def test_the_ambient_identity_is_only_what_is_written_out() -> None:
    """No pattern of principals matches Keyfold's own identity, nor the reverse (protocol C1)."""
    assert not _key_grant("*").matches(RootKey("T", "k"))
    assert _key_grant("*").matches(RootKey("T", "k", "someone"))
    assert _key_grant(None).matches(RootKey("T", "k"))
    assert not _key_grant(None).matches(RootKey("T", "k", "someone"))
    assert not _key_grant(None).matches(RootKey("T", "k", "ambient"))


def test_options_and_type_match_exactly() -> None:
    """One option more, less or different, or another type, is another key (protocol C1)."""
    granted = _key_grant("p", a="1")
    assert granted.matches(RootKey("T", "k", "p", (("a", "1"),)))
    for options in ((), (("a", "2"),), (("a", "1"), ("b", "2"))):
        assert not granted.matches(RootKey("T", "k", "p", options))
    assert not granted.matches(RootKey("TT", "k", "p", (("a", "1"),)))


def test_every_role_is_reached_by_a_word_and_says_what_it_is_for() -> None:
    """`admin` is every role, `crypto` both of its halves, and each role has its own word."""
    assert ROLES["admin"] == set(Role)
    assert ROLES["crypto"] == ROLES["crypto:wrap"] | ROLES["crypto:unwrap"]
    for role in Role:
        assert ROLES[role.value] == (frozenset(Role) if role is Role.ADMIN else frozenset({role}))
        assert role.purpose


def test_a_method_without_a_rule_is_nobody_s() -> None:
    """Nobody may call a method that the table does not name: default deny."""
    assert "Rotate" in RULES
    with pytest.raises(NotAllowedError, match="no rule lets anybody call Shred"):
        rule("Shred")
