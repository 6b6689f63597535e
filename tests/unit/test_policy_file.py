"""The policy file: its content, its faults by line and field, and its reloading."""

from __future__ import annotations

import logging
import os
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyfold_server.access.policy import watcher as policies_file
from keyfold_server.access.policy.file import PolicyFileError, parse
from keyfold_server.access.policy.grants import Role
from keyfold_server.access.policy.rights import Policy
from keyfold_server.access.policy.watcher import MAX_FILE, PolicyWatcher, read
from keyfold_server.bootstrap.access import Access
from keyfold_server.domain import files
from keyfold_server.domain.errors import NotAllowedError
from keyfold_server.domain.keyspec import RootKey
from keyfold_server.domain.rights import Identity, Rights
from keyfold_server.service.clock import SystemClock
from keyfold_server.settings import Settings

_ME = Identity(("local",), "loopback")

_WHOLE = """\
on_behalf_of = ["spiffe://td/ns/web/sa/*"]

[[grant]]
callers = ["local", "jwt:https://idp#*"]
roles = ["crypto:wrap", "operator"]
clusters = ["prod-*"]
organizations = ["acme"]
regions = ["eu-*", "us"]
context = { app = "billing" }
keys = [
  { type = "AWS_KMS", uri = "arn:aws:kms:*:1:key/*", principal = "arn:aws:iam::1:role/keyfold" },
  { type = "GCP_CLOUD_KMS", uri = "projects/p/k", principal = "ambient", options = { a = "b" } },
  { type = "LOCAL" },
  { type = "PLATFORM" },
]

[[grant]] # the second
callers = ["*"]
roles = ["auditor"]
clusters = ["*"]
regions = ["eu", "*"]
"""

_OK = '[[grant]]\ncallers = ["local"]\nroles = ["auditor"]\n'


def test_a_whole_file() -> None:
    """Every field of the file arrives in its grant, and nothing else."""
    policy = parse(_WHOLE, "policy.toml")
    first, second = policy.grants
    assert (first.where, second.where) == ("policy.toml:3", "policy.toml:17")
    assert first.roles == {Role.WRAP, Role.OPERATOR}
    assert str(first.callers) == "local, jwt:https://idp#*"
    assert (str(first.clusters), str(first.organizations)) == ("prod-*", "acme")
    assert str(first.regions) == "eu-*, us"
    assert first.context == {"app": "billing"}
    for key, fits in (
        (RootKey("AWS_KMS", "arn:aws:kms:x:1:key/y", "arn:aws:iam::1:role/keyfold"), True),
        (RootKey("AWS_KMS", "arn:aws:kms:x:1:key/y"), False),
        (RootKey("GCP_CLOUD_KMS", "projects/p/k", "", (("a", "b"),)), True),
        (RootKey("GCP_CLOUD_KMS", "projects/p/k"), False),
        (RootKey("LOCAL", "local:any"), True),
        (RootKey("PLATFORM", ""), True),
        (RootKey("VAULT_TRANSIT", "https://h:8200/v1/transit/keys/k"), False),
    ):
        assert any(granted.matches(key) for granted in first.keys) is fits
    # A star alone narrows nothing, as leaving the field out.
    assert (second.clusters, second.regions, second.organizations) == (None, None, None)
    assert (second.context, second.keys) == (None, ())
    assert policy.believes(Identity(("spiffe://td/ns/web/sa/x",), "certificate"))
    assert not policy.believes(_ME)


def _grant(line: str) -> str:
    """Returns a file with a grant from line 2, of which one line is replaced."""
    field = line.split(" ", maxsplit=1)[0]
    good = [each for each in _OK.splitlines() if not each.startswith(f"{field} ")]
    return "# policy\n" + "\n".join([*good, line]) + "\n"


def _claim(line: str, callers: str = '"jwt:https://idp#*"', roles: str = "auditor") -> str:
    return f'# policy\n[[grant]]\ncallers = [{callers}]\nroles = ["{roles}"]\n{line}\n'


def _key(values: str) -> str:
    return _grant('roles = ["operator"]') + f"keys = [{{ {values} }}]\n"


def _makes(narrow: str) -> str:
    return _key('type = "LOCAL"') + f"{narrow}\n"


_TYPES = "crypto, crypto:wrap, crypto:unwrap, operator, destroyer, auditor, admin"
_FIELDS = "callers, roles, clusters, organizations, organization_claim, regions, context, keys"
_AWS = 'type = "AWS_KMS"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # The file.
        ("", "p: grant: nobody may do anything; write at least one [[grant]]"),
        ("grant = []", "p: grant: is empty, which grants nothing; *"),
        ("grant = 1", "p: grant: is a number; write a list, such as [[grant]]"),
        ("grant = [1]", "p, grant 1: is not a table; write grants as [[grant]]"),
        ("[[grant]\n", "p:1: is not TOML: *; correct this line"),
        (_OK + 'roles = ["admin"]\n', "p:4: is not TOML: *; correct this line"),
        (_OK + "context = 2026-13-45", "p:*: is not TOML: *; correct this line"),
        ("a = " + "[" * 10_000, "p: is nested too deeply; write grants as [[grant]]"),
        ('"a\\nb" = 1\n' + _OK, "p: 'a\\nb': there is no such field; *"),
        (_OK + "[grants]", "p: grants: there is no such field; use grant, on_behalf_of"),
        ('on_behalf_of = "local"\n' + _OK, "p: on_behalf_of: is a string; write a list, *"),
        ("on_behalf_of = []\n" + _OK, "p: on_behalf_of: is empty, which grants nothing; *"),
        ('on_behalf_of = ["me"]\n' + _OK, "p: on_behalf_of[0]: 'me' cannot match anything; *"),
        # A grant's fields.
        (_grant('cluster = ["a"]'), f"p:2: cluster: there is no such field; use {_FIELDS}"),
        (
            '[[grant]]\nroles = ["admin"]',
            "p:1: callers: is missing; write a value such as callers = *",
        ),
        (
            '[[grant]]\ncallers = ["local"]',
            "p:1: roles: is missing; write a value such as roles = *",
        ),
        (_grant("callers = []"), "p:2: callers: is empty, which grants nothing; *"),
        (_grant("roles = []"), "p:2: roles: is empty, which grants nothing; *"),
        (_grant("clusters = []"), "p:2: clusters: is empty, which grants nothing; leave it out, *"),
        (_grant("context = {}"), "p:2: context: is empty, which grants nothing; leave it out, *"),
        (_grant('roles = "admin"'), "p:2: roles: is a string; write a list, *"),
        (_grant("regions = true"), "p:2: regions: is a boolean; write a list, *"),
        (_grant("regions = 1979-05-27"), "p:2: regions: is a date or time; write a list, *"),
        (_grant("clusters = [1]"), "p:2: clusters[0]: is not a string; write strings, *"),
        (_grant('context = ["a=b"]'), "p:2: context: is a list; write a table, *"),
        (_grant('roles = ["auditor", "root"]'), f"p:2: roles[1]: *'root'; use one of {_TYPES}"),
        (_grant('roles = ["Admin"]'), "p:2: roles[0]: there is no role 'Admin'; *"),
        # A claim that names the organization.
        (_claim("organization_claim = true"), "p:2: organization_claim: is a boolean; *"),
        (_claim('organization_claim = ["org"]'), "p:2: organization_claim: is a list; *"),
        (_claim('organization_claim = ""'), "p:2: organization_claim: is empty, *"),
        (_claim('organization_claim = "a\\n"'), "p:2: organization_claim: must be 1 to 256 *"),
        (
            _claim('organization_claim = "org"', '"jwt:https://idp#*", "spiffe://td/a"'),
            "p:2: callers[1]: 'spiffe://td/a' has no token, and so no claim org; *",
        ),
        (_claim('organization_claim = "org"', '"local"'), "p:2: callers[0]: 'local' has no *"),
        (
            _claim('organization_claim = "org"', roles="admin"),
            "p:2: roles: admin sets the limits of an organization, *",
        ),
        # Strings that are not patterns.
        (_grant('callers = [""]'), "p:2: callers[0]: must be 1 to 1,024 printable characters"),
        (_grant('callers = ["local\\n"]'), "p:2: callers[0]: must be 1 to 1,024 printable *"),
        (_grant('callers = ["spiffe:/td/a"]'), "p:2: callers[0]: * cannot match anything; *"),
        (_grant('callers = ["jwt:https://idp"]'), "p:2: callers[0]: * cannot match anything; *"),
        (_grant('callers = ["loca*"]'), "p:2: callers[0]: 'loca*' cannot match anything; *"),
        (
            _grant('clusters = ["prod-**"]'),
            "p:2: clusters[0]: * two stars in a row; write one *",
        ),
        (_grant('clusters = ["prod/*"]'), "p:2: clusters[0]: 'prod/*' cannot match anything; *"),
        (_grant('regions = ["-eu"]'), "p:2: regions[0]: '-eu' cannot match anything; *"),
        (_grant('organizations = [" "]'), "p:2: organizations[0]: ' ' cannot match anything; *"),
        # Fields that have no effect where they stand.
        (_grant('context = { a = "b" }'), "p:2: context: narrows only the role crypto; *"),
        (_grant('keys = [{ type = "LOCAL" }]'), "p:2: keys: are only for the role operator; *"),
        (_grant('roles = ["crypto"]') + "context = { a = 1 }", "p:2: context.a: must be *"),
        # Keys.
        (_grant("keys = {}"), "p:2: keys: is a table; write a list, *"),
        (_grant('keys = ["local:a"]'), "p:2: keys[0]: is not a table; write *"),
        (_key('uri = "a"'), "p:2: keys[0].type: is missing; write a value such as type = *"),
        (
            _key('type = "aws"'),
            "p:2: keys[0].type: 'aws' is not a type; write the exact name of a type, *",
        ),
        (
            _key('type = "*"'),
            "p:2: keys[0].type: '*' is not a type; write the exact name of a type, *",
        ),
        (_key(f'{_AWS}, principal = "r"'), "p:2: keys[0].uri: is missing; write a value such as *"),
        (_key(f'{_AWS}, uri = "a"'), 'p:2: keys[0].principal: is missing; * "ambient" for *own, *'),
        (_key(f'{_AWS}, uri = "a", principal = ""'), "p:2: keys[0].principal: is empty, *"),
        (_key(f'{_AWS}, uri = "*", principal = "r"'), "p:2: keys[0].uri: a * stays within *"),
        (_key(f'{_AWS}, uri = "a**", principal = "r"'), "p:2: keys[0].uri: * two stars *"),
        (_key(f'{_AWS}, key = "a"'), "p:2: keys[0].key: *; use type, uri, principal, options"),
        (_key(f'{_AWS}, uri = "a", principal = "r", options = {{ a = 1 }}'), "p:2: *.options.a: *"),
        (
            _key('type = "LOCAL", principal = "r"'),
            "p:2: keys[0].principal: a LOCAL key does not have this field; *",
        ),
        (
            _key('type = "PLATFORM", uri = "a"'),
            "p:2: keys[0].uri: a PLATFORM key does not have this field; *",
        ),
        (
            _key('type = "PLATFORM", options = {}'),
            "p:2: keys[0].options: a PLATFORM key does not have this field; *",
        ),
    ],
)
def test_a_fault_is_told_by_line_and_field(text: str, message: str) -> None:
    """A faulty file is refused as a whole, with a message that says where and what."""
    with pytest.raises(PolicyFileError) as refused:
        parse(text, "p")
    wanted = ".*".join(map(re.escape, message.split("*")))
    assert re.fullmatch(wanted, refused.value.message), refused.value.message


@pytest.mark.parametrize(
    "text",
    [
        _makes('clusters = ["acme-*"]\norganizations = ["acme"]'),
        _makes('organizations = ["acme", "*"]'),
        _makes('regions = ["eu"]'),
        _grant('roles = ["operator"]') + 'organizations = ["acme"]\n',
        _grant('roles = ["crypto", "auditor"]') + 'organizations = ["acme"]\n',
    ],
)
def test_other_grants_need_not_narrow_clusters(text: str) -> None:
    """C8: a grant that makes no cluster, or for every organization, may leave the names open."""
    assert len(parse(text, "p").grants) == 1


@pytest.mark.parametrize(
    "trap",
    [
        'context = { a = """\n[[grant]]\n""" }',
        "context = { a = '''\n[[grant]]\n''' }",
        'context = { a = """\\"""\n[[grant]]\n""" }',
        "context = { a = \"#\", 'b' = '\"' } # [[grant]]",
        "#[[grant]]\ncontext = { '''a''' = 'b' }".replace("'''a'''", '"a"'),
    ],
)
def test_no_string_or_comment_passes_for_a_header(trap: str) -> None:
    """A `[[grant]]` inside a text does not shift the line numbers of later grants."""
    before = _OK.replace("auditor", "crypto") + trap + "\n"
    policy = parse(before + "  [[ \"grant\" ]]\ncallers = ['*']\nroles = ['admin']\n", "p")
    assert [grant.where for grant in policy.grants] == ["p:1", f"p:{before.count(chr(10)) + 1}"]


def test_grants_without_headers_are_told_by_number() -> None:
    """If headers and grants differ in number, messages number the grant, never a wrong line."""
    with pytest.raises(PolicyFileError, match=r"^p, grant 1: keys\[0\]: is not a table"):
        parse(_grant('roles = ["admin"]') + 'keys = [\n[["grant"]]\n]', "p")
    text = 'grant = [{ callers = ["local"], roles = ["auditor"] }, { callers = ["local"] }]'
    with pytest.raises(PolicyFileError, match=r"^p, grant 2: roles: is missing"):
        parse(text, "p")


@given(st.text(max_size=200) | st.text("[]grant=\"'\n#{}, callers", max_size=80))
def test_no_text_breaks_the_parser(text: str) -> None:
    """Whatever the file contains, it is a policy with grants or a fault."""
    try:
        policy = parse(text, "p")
    except PolicyFileError:
        return
    assert policy.grants


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A policy file that lets `local` read."""
    path = tmp_path / "policy.toml"
    path.write_text(_OK)
    return path


def _may(rights: Rights, method: str) -> bool:
    try:
        rights.check(method)
    except NotAllowedError:
        return False
    return True


def test_a_changed_file_holds_from_the_next_look(file: Path) -> None:
    """A reload replaces policy and remembered rights together; an unchanged file keeps them."""
    policies = PolicyWatcher(file)
    before = policies.rights(_ME)
    assert policies.rights(_ME) is before
    assert not policies.reload()
    assert policies.rights(_ME) is before
    file.write_text('on_behalf_of = ["local"]\n' + _OK.replace("auditor", "operator"))
    assert not _may(policies.rights(_ME), "Rotate")
    assert policies.reload()
    assert _may(policies.rights(_ME), "Rotate")
    assert policies.believes(_ME)
    file.write_text(_OK)
    assert policies.reload()
    assert not _may(policies.rights(_ME), "Rotate")
    assert not policies.believes(_ME)


def test_a_broken_file_keeps_the_policy_and_is_told_once(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each change that breaks the file is one error in the log; the previous policy stays."""
    policies = PolicyWatcher(file)
    before = policies.rights(_ME)
    unknown = _OK.replace("auditor", "root")
    texts = (unknown, "[[grant\n", _OK.replace("roles", "role"), unknown, f"{unknown}# again\n")
    for told, text in enumerate(texts, 1):
        file.write_text(text)
        for _ in range(3):
            assert not policies.reload()
        errors = [r for r in caplog.records if r.levelno == logging.ERROR]
        assert len(errors) == told
        assert policies.broken is not None
        assert policies.broken in errors[-1].getMessage()
        assert policies.broken.startswith(f"{file}:1: ")
        assert policies.rights(_ME) is before
    # The text that is in force: nothing changes, and nothing is broken any more.
    file.write_text(_OK)
    assert not policies.reload()
    assert policies.broken is None
    assert policies.rights(_ME) is before
    # The last broken text again is a change again.
    caplog.clear()
    file.write_text(texts[-1])
    assert not policies.reload()
    assert [r.levelno for r in caplog.records] == [logging.ERROR]


def test_a_file_that_comes_back_is_in_force(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that vanishes and comes back counts as broken only in between."""
    later = SimpleNamespace(time_ns=lambda: file.stat().st_ctime_ns + 3_000_000_000)
    monkeypatch.setattr(files, "time", later)
    policies = PolicyWatcher(file)
    away = tmp_path.with_name("away")
    tmp_path.rename(away)
    policies.reload()
    assert policies.broken is not None
    away.rename(tmp_path)
    assert not policies.reload()
    assert policies.broken is None


def test_a_file_that_is_gone_keeps_the_policy(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the file is gone, a folder, a pipe or too large, the policy stays, with one log line."""
    policies = PolicyWatcher(file)
    before = policies.rights(_ME)

    def look(expected: str) -> None:
        caplog.clear()
        for _ in range(2):
            assert not policies.reload()
        assert policies.broken is not None
        assert expected in policies.broken
        assert [r.levelno for r in caplog.records] == [logging.ERROR]
        assert policies.rights(_ME) is before

    file.unlink()
    look(f"cannot read {file}: No such file")
    file.mkdir()
    look(f"cannot read {file}: Is a directory")
    file.rmdir()
    os.mkfifo(file)
    look("not a regular file")
    file.unlink()
    file.write_text("#" * (MAX_FILE + 1))
    look("more than 1,048,576 bytes")
    file.write_bytes(b'[[grant]]\ncallers = ["\xff"]\n')
    look(":2: is not UTF-8")
    other = file.with_suffix(".new")
    other.write_text(_OK.replace("auditor", "admin"))
    other.replace(file)
    assert policies.reload()
    assert policies.broken is None


def test_a_server_does_not_start_on_a_broken_file(tmp_path: Path) -> None:
    """At the start there is no previous policy to keep, so the fault is raised."""
    with pytest.raises(PolicyFileError, match="cannot read"):
        PolicyWatcher(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("[[grant]]")
    for make in (PolicyWatcher, read):
        with pytest.raises(PolicyFileError, match=r"broken.toml:1: callers: is missing"):
            make(tmp_path / "broken.toml")


def test_an_old_file_is_not_read_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stamp counts only once it is older than a coarse file system's clock tick."""
    reads = []
    read_file = policies_file._read

    def counted(path: Path) -> tuple[bytes, files.Stamp | None]:
        reads.append(path)
        return read_file(path)

    monkeypatch.setattr(policies_file, "_read", counted)
    age = 0
    changed = file.stat().st_ctime_ns
    monkeypatch.setattr(files, "time", SimpleNamespace(time_ns=lambda: changed + age))
    policies = PolicyWatcher(file)
    policies.reload()
    assert len(reads) == 2
    age = 3_000_000_000
    policies.reload()
    policies.reload()
    assert len(reads) == 3
    file.write_text(_OK.replace("auditor", "admin"))
    assert policies.reload()
    assert len(reads) == 4


def test_a_broken_file_is_parsed_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W5: a large file that stays broken does not take its time again at each look."""
    policies = PolicyWatcher(file)
    parsed = []
    parse_file = policies_file._parsed

    def counted(path: Path, contents: bytes) -> Policy:
        parsed.append(path)
        return parse_file(path, contents)

    monkeypatch.setattr(policies_file, "_parsed", counted)
    file.write_text("[[grant\n")
    for _ in range(3):
        assert not policies.reload()
    assert len(parsed) == 1
    assert policies.broken is not None


async def test_the_loop_does_not_parse_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W5: a policy of 3,000 grants takes 0.8 seconds to parse, in which other calls go on."""
    access = Access(Settings(store="sqlite:///unused.db", policy=file), SystemClock())
    threads = []
    monkeypatch.setattr(
        access._policies, "reload", lambda: threads.append(threading.current_thread())
    )
    await access._look_at_policy()
    assert len(threads) == 1
    assert threads != [threading.main_thread()]


def test_a_grant_by_a_claim() -> None:
    """The claim is read as it stands, and the policy says which claims tokens are read for."""
    url = 'organization_claim = "https://idp/org"\norganizations = ["acme", "b*"]'
    policy = parse(_claim('organization_claim = "org"') + _claim(url, '"*"'), "policy.toml")
    first, second = policy.grants
    assert (first.organization_claim, first.organizations) == ("org", None)
    assert second.organization_claim == "https://idp/org"
    assert str(second.organizations) == "acme, b*"
    assert policy.claims == {"org", "https://idp/org"}
